"""The hub over PostgreSQL: every round is one transaction that sees one tenant.

Pushes of one tenant are stored one after the other, so an author's counters have no gaps for any
reader, whatever order transactions of different tenants commit in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from autoglm.cloud.database import Database
from autoglm.sync.hub import (
    PAGE_VERSIONS,
    ActorRow,
    Verdict,
    has_gone_back,
    judge,
    known_vector,
    page,
    unknown_bases,
    unknown_device,
)
from autoglm.sync.messages import Push, Request, Response
from autoglm.sync.version import Dot, Version
from autoglm.sync.wire import flat, pairs

_COLUMNS = (
    "v.actor, v.counter, v.cell, v.context, v.stamp, v.payload, v.is_tombstone, v.needs_actor,"
    " v.needs_counter, v.shared"
)
_LACKING = f"""
SELECT {_COLUMNS} FROM actor a
LEFT JOIN unnest($2::bigint[], $3::bigint[]) AS k (actor, counter) ON k.actor = a.actor
JOIN version v ON v.tenant = $1 AND v.actor = a.actor AND v.counter > coalesce(k.counter, 0)
WHERE a.tenant = $1 AND a.counter > coalesce(k.counter, 0)
ORDER BY v.actor, v.counter LIMIT $4
"""
_SUPERSEDE = """
UPDATE version v SET is_live = false
FROM unnest($2::bytea[], $3::bigint[], $4::bigint[]) AS seen (cell, actor, counter)
WHERE v.tenant = $1 AND v.cell = seen.cell AND v.actor = seen.actor
  AND v.counter <= seen.counter AND v.is_live
"""
# What is neither live nor the base of anything; a chain of bases goes from its end.
_TIDY = """
DELETE FROM version v WHERE v.tenant = $1 AND v.cell = ANY ($2) AND NOT v.is_live
  AND NOT EXISTS (
    SELECT 1 FROM version w WHERE w.tenant = v.tenant AND w.cell = v.cell
      AND w.needs_actor = v.actor AND w.needs_counter = v.counter
  )
RETURNING v.actor, v.shared
"""
# Payloads whose last version is gone.
_TIDY_PAYLOADS = """
DELETE FROM shared_payload p USING unnest($2::bigint[], $3::bigint[]) AS left_by (actor, shared)
WHERE p.tenant = $1 AND p.actor = left_by.actor AND p.counter = left_by.shared AND NOT EXISTS (
  SELECT 1 FROM version w WHERE w.tenant = p.tenant AND w.actor = p.actor AND w.shared = p.counter
)
"""
_PAYLOADS = """
SELECT p.actor, p.counter, p.data FROM shared_payload p
JOIN unnest($2::bigint[], $3::bigint[]) AS asked (actor, counter)
  ON p.actor = asked.actor AND p.counter = asked.counter
WHERE p.tenant = $1
"""
_INSERT_PAYLOADS = """
INSERT INTO shared_payload (tenant, actor, counter, data)
SELECT $1, $2, counter, data FROM unnest($3::bigint[], $4::bytea[]) AS given (counter, data)
"""
_FORGET = "DELETE FROM version WHERE tenant = $1 AND is_tombstone AND received < $2"
# Arrays of arrays do not unnest by rows, so contexts come as text.
_INSERT = """
INSERT INTO version (tenant, actor, counter, cell, context, stamp, payload, is_tombstone,
  needs_actor, needs_counter, shared)
SELECT $1, actor, counter, cell, context::bigint[], stamp, payload, is_tombstone, needs_actor,
  needs_counter, shared
FROM unnest($2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::bigint[], $7::bytea[],
  $8::boolean[], $9::bigint[], $10::bigint[], $11::bigint[]) AS given (actor, counter, cell,
  context, stamp, payload, is_tombstone, needs_actor, needs_counter, shared)
"""


class PostgresHub:
    """Serves the rounds of every tenant."""

    def __init__(self, database: Database, *, page_versions: int = PAGE_VERSIONS) -> None:
        self._database = database
        self._page_versions = page_versions

    async def serve(self, tenant: str, request: Request) -> Response:
        """Store the push and answer with what the device lacks. Raises SyncError, StorageError."""
        async with self._database.transaction(tenant) as (connection, number):
            if request.actor == 0:
                actor = await _enrol(connection, number, request.enrolment)
                return Response(request.round, actor)
            return await self._round(connection, number, request)

    async def _round(
        self, connection: asyncpg.Connection, tenant: int, request: Request
    ) -> Response:
        actor, push = request.actor, request.push
        if push is not None:
            await _lock(connection, tenant)
        row = await _actor(connection, tenant, actor)
        verdict = judge(row, request)
        if verdict is Verdict.FORKED:
            return Response(request.round, actor, row.counter, is_forked=True)
        if verdict is Verdict.ACCEPT and push is not None:
            if missing := await _unknown_bases(connection, tenant, push):
                return Response(request.round, actor, row.counter, request.epoch, inline=missing)
            await _store(connection, tenant, actor, push)
            row.counter = push.upto
        if has_gone_back(row, request):
            await _start_over(connection, tenant, actor)
            row.epoch += 1
        if request.epoch < row.epoch:
            return Response(request.round, actor, row.counter, row.epoch)
        await _remember(connection, tenant, request, row)
        return await self._answer(connection, tenant, request, row)

    async def _answer(
        self, connection: asyncpg.Connection, tenant: int, request: Request, row: ActorRow
    ) -> Response:
        known = known_vector(request, row.counter)
        # The vector is read first: versions that are stored in between come twice, not never.
        found = await connection.fetch(
            "SELECT actor, counter FROM actor WHERE tenant = $1 AND counter > 0", tenant
        )
        vector: dict[int, int] = {record["actor"]: record["counter"] for record in found}
        limit = self._page_versions
        lacking = await connection.fetch(
            _LACKING, tenant, list(known), list(known.values()), limit + 1
        )
        found = await _read(connection, tenant, lacking)
        versions, reached, more = page(found, known, vector, limit)
        wanted = await _versions(connection, tenant, request.wanted)
        return Response(
            request.round, request.actor, row.counter, row.epoch, reached, versions + wanted, more
        )

    async def collect(self, tenant: str, before: datetime) -> int:
        """Forget tombstones stored before a time; devices that never saw one read anew."""
        async with self._database.transaction(tenant) as (connection, number):
            await _lock(connection, number)
            forgotten = await connection.fetch(
                _FORGET + " RETURNING actor, counter", number, before
            )
            for record in await connection.fetch(
                "SELECT actor, known_actors, known_counters FROM actor WHERE tenant = $1", number
            ):
                known = dict(zip(record["known_actors"], record["known_counters"], strict=True))
                if any(known.get(old["actor"], 0) < old["counter"] for old in forgotten):
                    await _start_over(connection, number, record["actor"])
            return len(forgotten)


async def _start_over(connection: asyncpg.Connection, tenant: int, actor: int) -> None:
    """Let a device read everything anew."""
    await connection.execute(
        "UPDATE actor SET epoch = epoch + 1, known_actors = '{}', known_counters = '{}'"
        " WHERE tenant = $1 AND actor = $2",
        tenant,
        actor,
    )


async def _lock(connection: asyncpg.Connection, tenant: int) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", tenant)


async def _enrol(connection: asyncpg.Connection, tenant: int, enrolment: int) -> int:
    await _lock(connection, tenant)
    await connection.execute(
        "INSERT INTO actor (tenant, actor, enrolment)"
        " SELECT $1, coalesce(max(actor), 0) + 1, $2 FROM actor WHERE tenant = $1"
        " ON CONFLICT (tenant, enrolment) DO NOTHING",
        tenant,
        enrolment,
    )
    actor: int = await connection.fetchval(
        "SELECT actor FROM actor WHERE tenant = $1 AND enrolment = $2", tenant, enrolment
    )
    return actor


async def _actor(connection: asyncpg.Connection, tenant: int, actor: int) -> ActorRow:
    record = await connection.fetchrow(
        "SELECT enrolment, counter, batch, epoch, known_actors, known_counters FROM actor"
        " WHERE tenant = $1 AND actor = $2 FOR UPDATE",
        tenant,
        actor,
    )
    if record is None:
        raise unknown_device(actor)
    known = dict(zip(record["known_actors"], record["known_counters"], strict=True))
    return ActorRow(record["enrolment"], record["counter"], record["batch"], record["epoch"], known)


async def _unknown_bases(
    connection: asyncpg.Connection, tenant: int, push: Push
) -> tuple[Dot, ...]:
    needs = [version.needs for version in push.versions if version.needs is not None]
    stored = await _versions(connection, tenant, needs)
    return unknown_bases(push, [version.dot for version in stored])


async def _versions(
    connection: asyncpg.Connection, tenant: int, dots: Sequence[Dot]
) -> tuple[Version, ...]:
    if not dots:
        return ()
    found = await connection.fetch(
        f"SELECT {_COLUMNS} FROM unnest($2::bigint[], $3::bigint[]) AS d (actor, counter)"
        " JOIN version v ON v.tenant = $1 AND v.actor = d.actor AND v.counter = d.counter"
        " ORDER BY v.actor, v.counter",
        tenant,
        [actor for actor, _ in dots],
        [counter for _, counter in dots],
    )
    return tuple(await _read(connection, tenant, found))


async def _store(connection: asyncpg.Connection, tenant: int, actor: int, push: Push) -> None:
    versions = push.versions
    needs = [version.needs or (None, None) for version in versions]
    shared: dict[bytes, int] = {}
    for version in versions:
        if version.is_shared:
            shared.setdefault(version.payload, version.dot[1])
    if shared:
        counters = list(shared.values())
        await connection.execute(_INSERT_PAYLOADS, tenant, actor, counters, list(shared))
    await connection.execute(
        _INSERT,
        tenant,
        [version.dot[0] for version in versions],
        [version.dot[1] for version in versions],
        [version.cell for version in versions],
        ["{" + ",".join(map(str, flat(version.context))) + "}" for version in versions],
        [version.stamp for version in versions],
        [None if version.is_shared else version.payload for version in versions],
        [version.is_tombstone for version in versions],
        [base for base, _ in needs],
        [base_counter for _, base_counter in needs],
        [shared[version.payload] if version.is_shared else None for version in versions],
    )
    await _forget_replaced(connection, tenant, versions)
    await connection.execute(
        "UPDATE actor SET counter = $3, batch = $4 WHERE tenant = $1 AND actor = $2",
        tenant,
        actor,
        push.upto,
        push.batch,
    )


async def _forget_replaced(
    connection: asyncpg.Connection, tenant: int, versions: Sequence[Version]
) -> None:
    """Remove what the versions have seen, but for what others are built on."""
    seen = [(v.cell, *dot) for v in versions for dot in v.context]
    if not seen:
        return
    cells, actors, counters = (list(column) for column in zip(*seen, strict=True))
    await connection.execute(_SUPERSEDE, tenant, cells, actors, counters)
    touched = list({cell for cell, *_ in seen})
    left: set[Dot] = set()
    while gone := await connection.fetch(_TIDY, tenant, touched):
        left |= {(row["actor"], row["shared"]) for row in gone if row["shared"] is not None}
    if left:
        await connection.execute(_TIDY_PAYLOADS, tenant, *map(list, zip(*left, strict=True)))


async def _remember(
    connection: asyncpg.Connection, tenant: int, request: Request, row: ActorRow
) -> None:
    """Note what the device has read, if that has changed."""
    if request.vector != row.vector:
        await connection.execute(
            "UPDATE actor SET known_actors = $3, known_counters = $4"
            " WHERE tenant = $1 AND actor = $2",
            tenant,
            request.actor,
            list(request.vector),
            list(request.vector.values()),
        )


async def _read(
    connection: asyncpg.Connection, tenant: int, records: Sequence[asyncpg.Record]
) -> list[Version]:
    """The versions in rows of _COLUMNS, with the payloads that they share."""
    asked = {(row["actor"], row["shared"]) for row in records if row["shared"] is not None}
    if not asked:
        return [_version(record, record["payload"]) for record in records]
    found = await connection.fetch(_PAYLOADS, tenant, *map(list, zip(*asked, strict=True)))
    payloads = {(row["actor"], row["counter"]): row["data"] for row in found}
    return [
        _version(row, row["payload"] or payloads[row["actor"], row["shared"]]) for row in records
    ]


def _version(record: asyncpg.Record, payload: bytes) -> Version:
    needs_actor = record["needs_actor"]
    return Version(
        (record["actor"], record["counter"]),
        record["cell"],
        tuple(pairs(record["context"])),
        record["stamp"],
        payload,
        record["is_tombstone"],
        None if needs_actor is None else (needs_actor, record["needs_counter"]),
        record["shared"] is not None,
    )
