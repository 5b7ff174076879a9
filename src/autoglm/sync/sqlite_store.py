"""The device's store in one SQLite file, owned by one process at a time.

A rollback journal with full synchronisation and an exclusive lock: SQLite versions up to 3.51.2 can
lose a WAL when two connections share it, and Debian 12 has such a version.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoglm.errors import StorageError
from autoglm.sync.store import Row
from autoglm.sync.version import Dot, Version

SCHEMA_VERSION = 1
LOCK_WAIT_S = 1.0
_SCHEMA = """
CREATE TABLE version (
    actor INTEGER NOT NULL, counter INTEGER NOT NULL, cell BLOB NOT NULL, context TEXT NOT NULL,
    stamp INTEGER NOT NULL, payload BLOB NOT NULL, is_tombstone INTEGER NOT NULL,
    needs_actor INTEGER, needs_counter INTEGER, is_live INTEGER NOT NULL,
    generation INTEGER NOT NULL, PRIMARY KEY (actor, counter)
) WITHOUT ROWID;
CREATE INDEX version_cell ON version (cell);
CREATE INDEX version_generation ON version (generation);
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), data BLOB NOT NULL);
"""
_COLUMNS = (
    "actor, counter, cell, context, stamp, payload, is_tombstone, needs_actor, needs_counter,"
    " is_live, generation"
)


class SqliteStore:
    """Rows and state on disk. Every failure of the database is a StorageError."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, readable by its owner only. Raises StorageError."""
        self._path = path
        with self._translated():
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None)
            try:
                self._take()
                self._create()
            except BaseException:
                self._connection.close()
                raise

    def _take(self) -> None:
        """Own the file until it is closed: who opens it holds a device's state in memory."""
        self._run("PRAGMA locking_mode = EXCLUSIVE")
        try:
            self._run("PRAGMA journal_mode = TRUNCATE")
            self._run("PRAGMA synchronous = FULL")
            self._run("BEGIN EXCLUSIVE")
            self._run("COMMIT")
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            message = (
                f"{self._path}: these records are open already, here or in another process; "
                "close them there first"
            )
            raise StorageError(message) from err

    def _create(self) -> None:
        found = self._run("PRAGMA user_version").fetchone()[0]
        if found == 0:
            self._connection.executescript(
                f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            )
        elif found != SCHEMA_VERSION:
            message = f"{self._path}: schema {found}, this program reads {SCHEMA_VERSION}"
            raise StorageError(message)

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes in the block are on the disk when it ends, or none is."""
        with self._translated():
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._run("ROLLBACK")
                raise

    def load_state(self) -> bytes:
        """What `save_state` wrote last; empty at first."""
        with self._translated():
            row = self._run("SELECT data FROM state").fetchone()
        return bytes(row[0]) if row else b""

    def save_state(self, state: bytes) -> None:
        """Replace the state."""
        with self._translated():
            self._run("INSERT OR REPLACE INTO state VALUES (1, ?)", state)

    def cell(self, cell: bytes) -> list[Row]:
        """All rows of a cell."""
        return self._rows("WHERE cell = ?", cell)

    def cells(self) -> list[bytes]:
        """Every cell that has rows."""
        with self._translated():
            return [bytes(row[0]) for row in self._run("SELECT DISTINCT cell FROM version")]

    def pending(self, actor: int, after: int, limit: int) -> list[Row]:
        """The rows of an author above a counter, in order."""
        where = "WHERE actor = ? AND counter > ? ORDER BY counter LIMIT ?"
        return self._rows(where, actor, after, limit)

    def stale(self, generation: int) -> list[Row]:
        """Rows of earlier generations."""
        return self._rows("WHERE generation < ?", generation)

    def put(self, row: Row) -> None:
        """Add a row, or replace the one with the same dot."""
        version = row.version
        with self._translated():
            self._run(
                f"INSERT OR REPLACE INTO version ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                *version.dot,
                version.cell,
                json.dumps(version.context),
                version.stamp,
                version.payload,
                version.is_tombstone,
                *(version.needs or (None, None)),
                row.is_live,
                row.generation,
            )

    def delete(self, dot: Dot) -> None:
        """Remove a row."""
        with self._translated():
            self._run("DELETE FROM version WHERE actor = ? AND counter = ?", *dot)

    def _rows(self, where: str, *arguments: object) -> list[Row]:
        with self._translated():
            found = self._run(f"SELECT {_COLUMNS} FROM version {where}", *arguments)
            return [_row(columns) for columns in found]

    def _run(self, statement: str, *arguments: object) -> sqlite3.Cursor:
        return self._connection.execute(statement, arguments)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as err:
            message = f"{self._path}: {err}"
            raise StorageError(message) from err


def _row(columns: tuple[Any, ...]) -> Row:
    actor, counter, cell, context, stamp, payload, tombstone, base, base_counter, *rest = columns
    version = Version(
        (actor, counter),
        cell,
        tuple((author, last) for author, last in json.loads(context)),
        stamp,
        payload,
        bool(tombstone),
        None if base is None else (base, base_counter),
    )
    return Row(version, bool(rest[0]), rest[1])
