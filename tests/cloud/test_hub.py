"""The hub over PostgreSQL does what the one in memory does, for many writers at once."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from tests.sync.simulation.world import World
from tools.postgres import OWNER

from autoglm.cloud.database import Database, migrate
from autoglm.cloud.hub import PostgresHub
from autoglm.cloud.settings import CloudSettings
from autoglm.errors import StorageError, SyncError
from autoglm.sync.clock import HybridClock
from autoglm.sync.hub import MemoryHub
from autoglm.sync.messages import Push, Request
from autoglm.sync.records import Records
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore
from autoglm.sync.version import Version

FUTURE = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
async def database(postgres):
    settings = CloudSettings(database=postgres.url(), pool_max=10, pool_wait_s=120, query_s=120)
    opened = await Database.connect(settings)
    yield opened
    await opened.close()


def version(actor: int, counter: int, cell: bytes, context=()) -> Version:
    return Version((actor, counter), cell, context, counter, b"s" * 24)


async def enrol(hub: PostgresHub, tenant: str, enrolment: int) -> int:
    return (await hub.serve(tenant, Request(1, 0, enrolment, 0, 0, {}))).actor


class Bridge(MemoryHub):
    """The simulator's hub with its state in the database: every call goes to both."""

    runner: asyncio.Runner
    database: Database
    num_worlds = 0

    def __init__(self, *, page_versions: int) -> None:
        super().__init__(page_versions=page_versions)
        self._real = PostgresHub(self.database, page_versions=page_versions)
        Bridge.num_worlds += 1
        self._tenant = f"world-{Bridge.num_worlds}"

    def serve(self, request, now_ms):
        """Both give the same answer."""
        response = super().serve(request, now_ms)
        real = self.runner.run(self._real.serve(self._tenant, request))
        assert real == response
        return real


def test_every_answer_is_that_of_the_hub_in_memory(postgres, monkeypatch):
    monkeypatch.setattr(Bridge, "collect", lambda self, before_ms: None)
    with asyncio.Runner() as runner:
        Bridge.runner = runner
        settings = CloudSettings(database=postgres.url())
        Bridge.database = runner.run(Database.connect(settings))
        faults = {seed: World(seed, hub=Bridge).run() for seed in range(12)}
        runner.run(Bridge.database.close())
    assert {seed: found for seed, found in faults.items() if found} == {}


async def test_tombstones_are_forgotten_and_a_device_that_missed_them_starts_over(database):
    hub, tenant = PostgresHub(database), "horizon"
    writer, absent = await enrol(hub, tenant, 1), await enrol(hub, tenant, 2)
    gone = Version((writer, 1), b"cell", (), 1, b"s" * 24, is_tombstone=True)
    push = Push(7, 1, (gone,))
    await hub.serve(tenant, Request(1, writer, 0, 0, 0, {}, push))
    await hub.serve(tenant, Request(1, writer, 0, 0, 1, {writer: 1}))
    assert await hub.collect(tenant, datetime.now(UTC) - timedelta(days=1)) == 0
    assert await hub.collect(tenant, FUTURE) == 1
    assert (await hub.serve(tenant, Request(1, absent, 0, 0, 0, {}))).epoch == 1
    assert (await hub.serve(tenant, Request(1, writer, 0, 0, 1, {writer: 1}))).epoch == 0


async def test_reader_misses_nothing_of_50_concurrent_writers(database, scale):
    hub, tenant, num_rounds = PostgresHub(database), "writers", 20 * scale
    rng = random.Random(1)
    actors = [await enrol(hub, tenant, n + 1) for n in range(50)]
    reader = await enrol(hub, tenant, 99)

    async def write(actor: int) -> None:
        for n in range(num_rounds):
            counters = range(5 * n + 1, 5 * n + 6)
            versions = tuple(version(actor, c, b"%d.%d" % (actor, c)) for c in counters)
            push = Push(n + 1, 5 * n + 5, versions)
            request = Request(1, actor, 0, 0, 5 * n, {}, push)
            await asyncio.sleep(rng.random() * 0.01)
            assert (await hub.serve(tenant, request)).acked == 5 * n + 5

    writing = asyncio.gather(*(write(actor) for actor in actors))
    found: set[tuple[int, int]] = set()
    vector: dict[int, int] = {}
    is_last = False
    while True:
        response = await hub.serve(tenant, Request(1, reader, 0, 0, 0, vector))
        found |= {each.dot for each in response.versions}
        vector = response.vector
        if is_last and not response.more:
            break
        is_last = writing.done() and not response.more
    await writing
    assert len(found) == 50 * num_rounds * 5


async def test_cursor_over_an_identity_column_misses_rows(postgres):
    """What the vector is for: an identity is given out before the row can be seen."""
    url = postgres.url(OWNER)
    first, second, reader = [await asyncpg.connect(url) for _ in range(3)]
    await reader.execute("CREATE TABLE control (id bigint GENERATED ALWAYS AS IDENTITY, x int)")
    slow = first.transaction()
    await slow.start()
    await first.execute("INSERT INTO control (x) VALUES (1)")
    await second.execute("INSERT INTO control (x) VALUES (2)")
    cursor = await reader.fetchval("SELECT max(id) FROM control")
    await slow.commit()
    later = await reader.fetch("SELECT x FROM control WHERE id > $1", cursor)
    assert (cursor, later) == (2, [])
    for connection in (first, second, reader):
        await connection.close()


class Sealed:
    """Devices' rounds over PostgreSQL, sealed as over a connection."""

    def __init__(self, hub: PostgresHub, tenant: str) -> None:
        self._hub, self._tenant = hub, tenant
        self.sealer = Sealer(bytes(32))

    def device(self, seed: int) -> Records:
        clock = HybridClock(lambda: 1_700_000_000_000)
        key = self.sealer.index_key()
        return Records(MemoryStore(), key, clock=clock, rng=random.Random(seed))

    async def sync(self, *devices: Records) -> None:
        for records in devices:
            is_idle = False
            while not is_idle:
                request = records.request()
                if request.push is not None:
                    versions = self.sealer.seal_all(request.push.versions)
                    request = replace(request, push=replace(request.push, versions=versions))
                response = await self._hub.serve(self._tenant, request)
                opened = self.sealer.open_all(response.versions)
                is_idle = records.receive(replace(response, versions=opened)).is_idle


async def test_versions_that_share_a_seal_come_back_and_leave_nothing_when_replaced(
    postgres, database
):
    rounds = Sealed(PostgresHub(database, page_versions=200), "shared")
    writer, reader = rounds.device(1), rounds.device(2)
    written = [f"note-{n}" for n in range(600)]
    count = (
        "SELECT count(*) FROM shared_payload p JOIN tenant t ON t.id = p.tenant"
        " WHERE t.name = 'shared'"
    )
    for turn in ("first", "second"):
        for name in written:
            writer.put(name, "title", f"{turn} {name}")
        writer.write_text("long", "body", f"{turn} " * 500)
        await rounds.sync(writer, reader)
        assert [reader.get(name) for name in written] == [
            {"title": f"{turn} {name}"} for name in written
        ]
        assert int(postgres.execute(count)) == 3
    writer.put("note-0", "title", "last")
    for name in written[1:]:
        writer.erase(name)
    await rounds.sync(writer, reader)
    assert (reader.names(), int(postgres.execute(count))) == (["long", "note-0"], 0)


async def test_tenants_never_see_each_other(database, scale):
    hub = PostgresHub(database)
    rng = random.Random(5)
    names = [f"tenant-{n}" for n in range(8)]
    for name in names:
        actor = await enrol(hub, name, 1)
        push = Push(1, 1, (version(actor, 1, name.encode()),))
        await hub.serve(name, Request(1, actor, 0, 0, 0, {}, push))
    for _ in range(250 * scale):
        name = rng.choice(names)
        response = await hub.serve(name, Request(1, 1, 0, 0, 1, {}, wanted=((1, 1), (2, 1))))
        assert {each.cell for each in response.versions} == {name.encode()}
        with pytest.raises(SyncError, match="does not know device"):
            await hub.serve(name, Request(1, rng.randrange(2, 99), 0, 0, 0, {}))


async def test_row_level_security_hides_all_rows_from_a_query_without_a_tenant(postgres, database):
    hub = PostgresHub(database)
    await enrol(hub, "secretive", 1)
    connection = await asyncpg.connect(postgres.url())
    assert await connection.fetchval("SELECT count(*) FROM actor") == 0
    await connection.execute("SELECT set_config('autoglm.tenant', '999999', false)")
    assert await connection.fetchval("SELECT count(*) FROM actor") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(
            "INSERT INTO actor (tenant, actor, enrolment) SELECT id, 77, 77 FROM tenant LIMIT 1"
        )
    await connection.close()


async def test_migrations_run_once(postgres):
    assert await migrate(postgres.url(OWNER)) == []


async def test_database_that_is_away_is_a_storage_error(tmp_path):
    settings = CloudSettings(database=f"postgresql://service@/x?host={tmp_path}")
    with pytest.raises(StorageError, match="the database failed"):
        await Database.connect(settings)
