"""Sealed blocks in PostgreSQL, by tenant and name."""

from __future__ import annotations

from collections.abc import Sequence

from autoglm.cloud.database import Database
from autoglm.errors import SyncError

MAX_NAMES = 2**16
MAX_BLOCK_BYTES = 2**16 + 64
NAME_BYTES = 16


class PostgresBlocks:
    """Stores a block once, however often it is sent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def missing(self, tenant: str, names: Sequence[bytes]) -> list[bytes]:
        """Those of the names that are not stored. Raises SyncError for too many."""
        if len(names) > MAX_NAMES:
            message = f"{len(names)} names of blocks; at most {MAX_NAMES}"
            raise SyncError(message)
        async with self._database.transaction(tenant) as (connection, number):
            found = await connection.fetch(
                "SELECT name FROM block WHERE tenant = $1 AND name = ANY ($2)", number, names
            )
        stored = {record["name"] for record in found}
        return [name for name in names if name not in stored]

    async def put(self, tenant: str, name: bytes, data: bytes) -> None:
        """Store a block. Raises SyncError for one that cannot be one."""
        if len(name) != NAME_BYTES or len(data) > MAX_BLOCK_BYTES:
            message = f"a block of {len(data)} bytes under a name of {len(name)}"
            raise SyncError(message)
        async with self._database.transaction(tenant) as (connection, number):
            await connection.execute(
                "INSERT INTO block (tenant, name, data) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                number,
                name,
                data,
            )

    async def get(self, tenant: str, name: bytes) -> bytes:
        """A block. Raises SyncError if it is not stored."""
        async with self._database.transaction(tenant) as (connection, number):
            data: bytes | None = await connection.fetchval(
                "SELECT data FROM block WHERE tenant = $1 AND name = $2", number, name
            )
        if data is None:
            message = "the hub has no such block"
            raise SyncError(message)
        return data
