"""Connections to PostgreSQL: a bounded pool, transactions that see one tenant, and migrations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

import asyncpg

from autoglm.cloud.settings import CloudSettings
from autoglm.errors import StorageError

SERVICE_ROLE = "autoglm_service"
# One migration at a time, whoever runs it.
_MIGRATION_LOCK = 0x6175746F


class Database:
    """A pool of connections. Every failure of the database is a StorageError."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], settings: CloudSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._tenants: dict[str, int] = {}

    @staticmethod
    async def connect(settings: CloudSettings) -> Database:
        """Open the pool. Raises StorageError if the database cannot be reached."""
        async with _translated():
            pool = await asyncpg.create_pool(
                settings.database,
                min_size=settings.pool_min,
                max_size=settings.pool_max,
                max_inactive_connection_lifetime=settings.pool_idle_s,
                max_queries=settings.pool_queries,
                timeout=settings.pool_wait_s,
                command_timeout=settings.query_s,
            )
        return Database(pool, settings)

    async def close(self) -> None:
        """Wait for running transactions, then close every connection."""
        await self._pool.close()

    async def check(self) -> None:
        """Raise StorageError unless the database answers."""
        async with _translated(), self._pool.acquire(timeout=self._settings.pool_wait_s) as found:
            await found.fetchval("SELECT 1 FROM tenant LIMIT 1")

    @asynccontextmanager
    async def transaction(self, tenant: str) -> AsyncIterator[tuple[asyncpg.Connection, int]]:
        """A connection that sees one tenant's rows, and the tenant's number."""
        async with _translated(), self._pool.acquire(timeout=self._settings.pool_wait_s) as found:
            number = self._tenants.get(tenant) or await _tenant_number(found, tenant)
            self._tenants[tenant] = number
            async with found.transaction():
                await found.execute("SELECT set_config('autoglm.tenant', $1, true)", str(number))
                yield found, number

    async def tenants(self) -> list[str]:
        """The names of all tenants."""
        async with _translated(), self._pool.acquire(timeout=self._settings.pool_wait_s) as found:
            return [row["name"] for row in await found.fetch("SELECT name FROM tenant")]


async def _tenant_number(connection: asyncpg.Connection, name: str) -> int:
    await connection.execute("INSERT INTO tenant (name) VALUES ($1) ON CONFLICT DO NOTHING", name)
    number: int = await connection.fetchval("SELECT id FROM tenant WHERE name = $1", name)
    return number


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Failures of the database as StorageError, which never shows a value of a query."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as err:
        message = f"the database failed ({type(err).__name__})"
        raise StorageError(message) from err


async def migrate(url: str) -> list[str]:
    """Bring the schema up to date as its owner; returns the migrations that ran.

    Raises StorageError, and then nothing has changed.
    """
    async with _translated():
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                return await _run_migrations(connection)
        finally:
            await connection.close()


async def _run_migrations(connection: asyncpg.Connection) -> list[str]:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migration"
        " (name text PRIMARY KEY, ran timestamptz NOT NULL DEFAULT now())"
    )
    is_known = "SELECT 1 FROM pg_roles WHERE rolname = $1"
    if not await connection.fetchval(is_known, SERVICE_ROLE):
        await connection.execute(f"CREATE ROLE {SERVICE_ROLE} NOLOGIN")
    done = {row["name"] for row in await connection.fetch("SELECT name FROM migration")}
    ran = []
    directory = resources.files("autoglm.cloud") / "migrations"
    for file in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if file.name in done:
            continue
        await connection.execute(file.read_text(encoding="utf-8"))
        await connection.execute("INSERT INTO migration (name) VALUES ($1)", file.name)
        ran.append(file.name)
    return ran
