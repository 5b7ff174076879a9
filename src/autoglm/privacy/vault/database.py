"""The SQLite file under the vault: version gate, journal mode, tables, and errors by our names.

Knows nothing about keys; every value that passes here is sealed already.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from autoglm.errors import StorageError, VaultError

FORMAT = 1
BUSY_TIMEOUT_S = 30.0
_OLDEST = (3, 37, 0)
# Two connections in WAL mode can corrupt a database from 3.7.0 to 3.51.2 (sqlite.org/wal.html).
_WAL_IS_SAFE = (3, 51, 3)

_TABLES = """
CREATE TABLE IF NOT EXISTS vault (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format INTEGER NOT NULL,
    vault_id BLOB NOT NULL,
    keystore TEXT NOT NULL,
    key_id INTEGER NOT NULL,
    wrapped BLOB NOT NULL,
    state BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL,
    tag BLOB NOT NULL UNIQUE,
    sealed BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS records_by_collection ON records (collection);
"""


def journal_mode(version: tuple[int, int, int]) -> str:
    """The journal this version of SQLite keeps without risk. Raises VaultError for old ones."""
    if version < _OLDEST:
        message = f"SQLite {'.'.join(map(str, version))} is too old for a vault; 3.37 is needed"
        raise VaultError(message)
    return "wal" if version >= _WAL_IS_SAFE else "truncate"


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as ours; their messages hold no values."""
    try:
        yield
    except sqlite3.OperationalError as err:
        if "locked" in str(err):
            message = f"{path}: another process has kept the vault busy for {BUSY_TIMEOUT_S:.0f} s"
            raise VaultError(message) from err
        message = f"{path}: {err}"
        raise StorageError(message) from err
    except sqlite3.DatabaseError as err:
        message = f"{path}: the vault's file is damaged ({err}); restore it from a copy"
        raise VaultError(message) from err


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, which is made private to its owner, with durable commits."""
    mode = journal_mode(sqlite3.sqlite_version_info)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    with translate_errors(path):
        database = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            _configure(database, path, mode)
        except BaseException:
            database.close()
            raise
    return database


def _configure(database: sqlite3.Connection, path: Path, mode: str) -> None:
    # What is deleted is overwritten; temporary tables never reach a disk.
    for pragma in ("secure_delete = on", "temp_store = memory", "synchronous = full"):
        database.execute(f"PRAGMA {pragma}")
    (found,) = database.execute(f"PRAGMA journal_mode = {mode}").fetchone()
    if found != mode:
        message = f"{path}: its journal is '{found}', which this SQLite cannot keep safely"
        raise VaultError(message)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, kind: str) -> Iterator[None]:
    """BEGIN of a kind, then COMMIT, or ROLLBACK when anything is raised."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def create_tables(database: sqlite3.Connection) -> None:
    """Make the tables inside the open transaction."""
    for statement in _TABLES.split(";")[:-1]:
        database.execute(statement)


def check_types(row: tuple[object, ...], types: tuple[type, ...]) -> None:
    """Raise VaultError for a row that no vault wrote: a damaged file may hold any type."""
    if any(not isinstance(value, kind) for value, kind in zip(row, types, strict=True)):
        message = "the vault's file is damaged: a value has the wrong type; restore it from a copy"
        raise VaultError(message)
