"""Both stores keep the same contract; SQLite's keeps it on the disk."""

import pytest

from autoglm.errors import StorageError
from autoglm.sync.sqlite_store import SqliteStore
from autoglm.sync.store import MemoryStore, Row
from autoglm.sync.version import Version


def row(counter: int, *, cell: bytes = b"c", generation: int = 0, is_live: bool = True) -> Row:
    context = ((2, 9), (7, 1))
    version = Version((1, counter), cell, context, 99, b"\x00payload", False, (1, 1))
    return Row(version, is_live, generation)


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryStore()
        return
    store = SqliteStore(tmp_path / "sync.db")
    yield store
    store.close()


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


def test_sqlite_store_survives_its_process_and_is_private(tmp_path):
    path = tmp_path / "sync.db"
    store = SqliteStore(path)
    with store.transaction():
        store.put(row(1))
    store.close()
    again = SqliteStore(path)
    assert again.cell(b"c") == [row(1)]
    assert path.stat().st_mode & 0o077 == 0
    again.close()


def test_file_that_is_no_database_is_a_storage_error(tmp_path):
    path = tmp_path / "sync.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 99)
    with pytest.raises(StorageError, match=r"sync\.db"):
        SqliteStore(path)
