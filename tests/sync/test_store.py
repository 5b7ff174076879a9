"""All stores keep the same contract; SQLite's and the vault's keep it on the disk."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.sync.conftest import sync

from autoglm.errors import StorageError
from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault
from autoglm.sync.sqlite_store import SqliteStore
from autoglm.sync.store import MemoryStore, Row, Store
from autoglm.sync.vault_store import VaultStore
from autoglm.sync.version import Version


def row(counter: int, *, cell: bytes = b"c", generation: int = 0, is_live: bool = True) -> Row:
    context = ((2, 9), (7, 1))
    version = Version((1, counter), cell, context, 99, b"\x00payload", False, (1, 1))
    return Row(version, is_live, generation)


@contextmanager
def opened(kind: str, directory: Path) -> Iterator[Store]:
    """A store in a directory, as a process would open it."""
    if kind == "sqlite":
        store = SqliteStore(directory / "sync.db")
        yield store
        store.close()
        return
    paths = VaultPaths(directory / "data" / "vault.db", directory / "state" / "anchor")
    with Vault(paths, KeyFile(directory / "config" / "key")) as vault:
        sealed = VaultStore(vault, directory / "sync.lock")
        yield sealed
        sealed.close()


@pytest.fixture(params=["memory", "sqlite", "vault"])
def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryStore()
        return
    with opened(request.param, tmp_path) as found:
        yield found


def test_rows_come_back_as_they_were_put(store):
    rows = [row(1), row(2, is_live=False), row(3, cell=b"d", generation=4)]
    with store.transaction():
        for each in rows:
            store.put(each)
        store.save_state(b"state")
    assert store.cell(b"c") == rows[:2]
    assert sorted(store.cells()) == [b"c", b"d"]
    assert store.pending(1, 1, 1) == [rows[1]]
    assert store.stale(4) == rows[:2]
    assert store.load_state() == b"state"


def test_failed_transaction_leaves_no_trace(store):
    with store.transaction():
        store.put(row(1))
        store.save_state(b"old")
    with pytest.raises(KeyError), store.transaction():
        store.put(row(1, generation=9))
        store.put(row(2))
        store.delete((1, 1))
        store.save_state(b"new")
        raise KeyError
    assert store.pending(1, 0, 9) == [row(1)]
    assert store.load_state() == b"old"


@pytest.mark.parametrize("kind", ["sqlite", "vault"])
def test_store_survives_its_process_and_is_private(kind, tmp_path):
    with opened(kind, tmp_path) as store:
        for counter in range(1, 4):
            with store.transaction():
                store.put(row(counter))
                store.save_state(b"state %d" % counter)
        with store.transaction():
            store.delete((1, 2))
    with opened(kind, tmp_path) as again:
        assert again.pending(1, 0, 9) == [row(1), row(3)]
        assert again.load_state() == b"state 3"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("kind", ["sqlite", "vault"])
def test_store_has_one_owner(kind, tmp_path):
    again = opened(kind, tmp_path)
    with opened(kind, tmp_path), pytest.raises(StorageError, match="are open already"):
        again.__enter__()
    with opened(kind, tmp_path) as again, again.transaction():
        again.put(row(1))


def test_another_process_is_told_that_the_records_are_open(tmp_path):
    code = f"""
from pathlib import Path
from autoglm.errors import StorageError
from autoglm.sync.sqlite_store import SqliteStore
try:
    SqliteStore(Path({str(tmp_path / "sync.db")!r}))
except StorageError as err:
    print(err)
"""
    command = [sys.executable, "-c", code]
    with opened("sqlite", tmp_path) as store:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert "are open already, here or in another process" in done.stdout
        with store.transaction():
            store.put(row(1))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""


def test_vault_holds_no_value_in_the_clear(tmp_path):
    with opened("vault", tmp_path) as store, store.transaction():
        store.put(row(1))
        store.save_state(b"state-canary")
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"payload" not in stored
    assert b"canary" not in stored


def test_records_live_in_the_vault(tmp_path, make_records, hub):
    other = make_records()
    with opened("vault", tmp_path) as store:
        records = make_records(store)
        records.put("n", "title", "t")
        records.write_text("n", "body", "one two")
        sync(hub, records, other)
    with opened("vault", tmp_path) as store:
        again = make_records(store)
        assert again.get("n") == other.get("n") == {"title": "t", "body": "one two"}


def test_file_that_is_no_database_is_a_storage_error(tmp_path):
    path = tmp_path / "sync.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 99)
    with pytest.raises(StorageError, match=r"sync\.db"):
        SqliteStore(path)
