"""The hub's side of a round: decides what a push is, and finds what a device lacks.

`judge` and `page` are shared with the hub over PostgreSQL; `MemoryHub` keeps its rows in memory.
Payloads are opaque here: only dots, contexts and clocks are read.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from autoglm.errors import SyncError
from autoglm.sync.messages import Push, Request, Response
from autoglm.sync.version import Context, Dot, Vector, Version, covers, needed

PAGE_VERSIONS = 2_000


@dataclass(slots=True)
class ActorRow:
    """What the hub knows of one author: its writes up to `counter`, and what it has read."""

    enrolment: int
    counter: int = 0
    batch: int = 0
    epoch: int = 0
    vector: dict[int, int] = field(default_factory=dict)


class Verdict(enum.Enum):
    """What a request is to the hub."""

    FORKED = "the device counts from a place it has left before"
    ACCEPT = "the push follows on what is stored"
    KEEP = "nothing to store: no push, or one that is stored already"


def judge(row: ActorRow, request: Request) -> Verdict:
    """Decide by the actor's counter and last batch alone; the caller holds the actor's lock.

    Raises SyncError when the hub is behind what it confirmed.
    """
    if request.acked > row.counter:
        # Going on would make the device forget what only it still has.
        message = (
            f"the hub has {row.counter} writes of device {request.actor} and confirmed "
            f"{request.acked}: it lost data; restore it before syncing again"
        )
        raise SyncError(message)
    push = request.push
    is_repeated = push is not None and (push.upto, push.batch) == (row.counter, row.batch)
    if request.acked < row.counter and not is_repeated:
        return Verdict.FORKED
    return Verdict.KEEP if push is None or is_repeated else Verdict.ACCEPT


def unknown_device(actor: int) -> SyncError:
    """The error for an actor the hub never gave out."""
    return SyncError(f"the hub does not know device {actor}; is it the right hub and tenant?")


def has_gone_back(row: ActorRow, request: Request) -> bool:
    """Whether the device knows less than it did: a backup from before tombstones that are gone."""
    is_less = any(request.vector.get(actor, 0) < last for actor, last in row.vector.items())
    return request.epoch == row.epoch and is_less


def known_vector(request: Request, counter: int) -> dict[int, int]:
    """What the device knows once its push is stored up to `counter`."""
    vector = dict(request.vector)
    if vector.get(request.actor, 0) == request.acked and counter:
        vector[request.actor] = counter
    return vector


def page(
    lacking: list[Version], known: Vector, hub: Vector, limit: int
) -> tuple[tuple[Version, ...], dict[int, int], bool]:
    """A page of what a device lacks, what it knows then, and whether there is more.

    `lacking` is sorted by dot and may have one version above `limit`.
    """
    vector = dict(known)
    if len(lacking) <= limit:
        return tuple(lacking), vector | dict(hub), False
    versions = lacking[:limit]
    actor, counter = versions[-1].dot
    vector |= {other: last for other, last in hub.items() if other < actor}
    vector[actor] = counter
    return tuple(versions), vector, True


def unknown_bases(push: Push, stored: Iterable[Dot]) -> tuple[Dot, ...]:
    """The pushed versions built on versions that are neither stored nor pushed before them."""
    present = set(stored)
    missing: list[Dot] = []
    for version in push.versions:
        if version.needs is not None and version.needs not in present:
            missing.append(version.dot)
        present.add(version.dot)
    return tuple(missing)


@dataclass(slots=True)
class _Stored:
    version: Version
    received_ms: int
    is_live: bool = True


class MemoryHub:
    """A hub in memory. Every call either happens as a whole or, if it raises, not at all."""

    def __init__(self, *, page_versions: int = PAGE_VERSIONS) -> None:
        self.actors: dict[int, ActorRow] = {}
        self._rows: dict[Dot, _Stored] = {}
        self._cells: dict[bytes, set[Dot]] = {}
        self._page_versions = page_versions

    @property
    def vector(self) -> dict[int, int]:
        """The last counter of every author."""
        return {actor: row.counter for actor, row in self.actors.items() if row.counter}

    def live(self) -> dict[Dot, Version]:
        """Every live version, tombstones too."""
        return {dot: stored.version for dot, stored in self._rows.items() if stored.is_live}

    def serve(self, request: Request, now_ms: int) -> Response:
        """Store the push and answer with what the device lacks."""
        if request.actor == 0:
            return Response(request.round, self._enrol(request.enrolment))
        row = self.actors.get(request.actor)
        if row is None:
            raise unknown_device(request.actor)
        verdict = judge(row, request)
        if verdict is Verdict.FORKED:
            return Response(request.round, request.actor, row.counter, is_forked=True)
        if verdict is Verdict.ACCEPT and request.push is not None:
            if missing := unknown_bases(request.push, self._rows):
                return Response(
                    request.round, request.actor, row.counter, request.epoch, inline=missing
                )
            self._accept(row, request.push, now_ms)
        if has_gone_back(row, request):
            row.epoch, row.vector = row.epoch + 1, {}
        if request.epoch < row.epoch:
            return Response(request.round, request.actor, row.counter, row.epoch)
        row.vector = dict(request.vector)
        known = known_vector(request, row.counter)
        lacking = sorted(
            (s.version for dot, s in self._rows.items() if dot[1] > known.get(dot[0], 0)),
            key=lambda version: version.dot,
        )
        versions, vector, more = page(lacking, known, self.vector, self._page_versions)
        wanted = tuple(self._rows[dot].version for dot in request.wanted if dot in self._rows)
        return Response(
            request.round,
            request.actor,
            row.counter,
            row.epoch,
            vector,
            versions + wanted,
            more,
        )

    def collect(self, before_ms: int) -> None:
        """Remove tombstones stored before a time; devices that never saw one must resynchronise."""
        old = [
            stored.version
            for stored in self._rows.values()
            if stored.version.is_tombstone and stored.received_ms < before_ms
        ]
        for version in old:
            self._remove(version.dot)
        for row in self.actors.values():
            if any(row.vector.get(v.dot[0], 0) < v.dot[1] for v in old):
                row.epoch, row.vector = row.epoch + 1, {}

    def _enrol(self, enrolment: int) -> int:
        for actor, row in self.actors.items():
            if row.enrolment == enrolment:
                return actor
        actor = len(self.actors) + 1
        self.actors[actor] = ActorRow(enrolment)
        return actor

    def _accept(self, row: ActorRow, push: Push, now_ms: int) -> None:
        for version in push.versions:
            self._rows[version.dot] = _Stored(version, now_ms)
            self._cells.setdefault(version.cell, set()).add(version.dot)
            self._supersede(version.cell, version.context)
        row.counter, row.batch = push.upto, push.batch

    def _supersede(self, cell: bytes, context: Context) -> None:
        """Forget the cell's versions that `context` has seen, but for those others are built on."""
        rows = {dot: self._rows[dot] for dot in self._cells[cell]}
        for dot, stored in rows.items():
            if covers(context, dot):
                stored.is_live = False
        live = [stored.version for stored in rows.values() if stored.is_live]
        kept = needed(live, {dot: stored.version for dot, stored in rows.items()})
        for dot, stored in rows.items():
            if not stored.is_live and dot not in kept:
                self._remove(dot)

    def _remove(self, dot: Dot) -> None:
        cell = self._rows.pop(dot).version.cell
        self._cells[cell].discard(dot)
        if not self._cells[cell]:
            del self._cells[cell]
