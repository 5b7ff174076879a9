"""One transaction on the vault's records: what is written in it is kept whole or not at all.

A record is a value under a key in a collection. Every write gives it the next sequence number, so
`scan` in that order is the log of changes since a number.
"""

from __future__ import annotations

import sqlite3
import struct
from typing import NamedTuple

from autoglm.errors import UsageError, VaultError
from autoglm.privacy.vault import database as db
from autoglm.privacy.vault.keys import DataKeys
from autoglm.privacy.vault.seal import Place
from autoglm.privacy.vault.state import State

MAX_VALUE_BYTES = 256 * 2**20
MAX_KEY_BYTES = 4096
MAX_COLLECTION_BYTES = 255
_COLUMN = b"value"
_HEAD = struct.Struct(">HH")


class Record(NamedTuple):
    """A stored value; `seq` grows with every write to the vault."""

    collection: str
    key: bytes
    value: bytes
    seq: int


class Reader:
    """Reads records inside an open transaction."""

    def __init__(self, database: sqlite3.Connection, keys: DataKeys) -> None:
        self._database = database
        self._keys = keys
        self._collections: dict[str, int] = {}

    def get(self, collection: str, key: bytes) -> bytes | None:
        """The value under `key`, None when there is none. Raises VaultError."""
        number = self._collection(collection)
        tag = self._keys.record_tag(number, key)
        row = self._database.execute(
            "SELECT seq, collection, tag, sealed FROM records WHERE tag = ?", (tag,)
        ).fetchone()
        return None if row is None else open_row(row, self._keys).value

    def scan(self, collection: str, *, after: int = 0, limit: int = 1000) -> list[Record]:
        """Up to `limit` records written after sequence number `after`, oldest first."""
        rows = self._database.execute(
            "SELECT seq, collection, tag, sealed FROM records "
            "WHERE collection = ? AND seq > ? ORDER BY seq LIMIT ?",
            (self._collection(collection), after, limit),
        )
        return [open_row(row, self._keys) for row in rows]

    def _collection(self, name: str) -> int:
        number = self._collections.get(name)
        if number is None:
            if not 0 < len(name.encode()) <= MAX_COLLECTION_BYTES:
                message = f"a collection's name has 1 to {MAX_COLLECTION_BYTES} bytes"
                raise UsageError(message)
            number = self._collections[name] = self._keys.collection_id(name)
        return number


class Transaction(Reader):
    """Reads and writes records; the vault commits it when its block ends."""

    def __init__(self, database: sqlite3.Connection, keys: DataKeys, state: State) -> None:
        super().__init__(database, keys)
        self._state = state
        self.is_changed = False

    def put(self, collection: str, key: bytes, value: bytes) -> int:
        """Store `value` under `key`, in place of what was there; returns its sequence number."""
        if not 0 < len(key) <= MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            message = (
                f"a record's key has 1 to {MAX_KEY_BYTES} bytes, its value up to "
                f"{MAX_VALUE_BYTES}; got {len(key)} and {len(value)}"
            )
            raise UsageError(message)
        number = self._collection(collection)
        tag = self._keys.record_tag(number, key)
        self._drop(tag)
        state = self._state
        state.last_seq = seq = state.last_seq + 1
        state.count_seal()
        state.add(self._keys.digest(tag, seq))
        plain = pack_record(collection.encode(), key, value)
        sealed = self._keys.sealer.seal(plain, Place(_COLUMN, number, seq, tag))
        self._database.execute(
            "INSERT INTO records (seq, collection, tag, sealed) VALUES (?, ?, ?, ?)",
            (seq, number, tag, sealed),
        )
        self.is_changed = True
        return seq

    def delete(self, collection: str, key: bytes) -> bool:
        """Remove the record; False when there was none."""
        tag = self._keys.record_tag(self._collection(collection), key)
        is_found = self._drop(tag)
        self.is_changed |= is_found
        return is_found

    def _drop(self, tag: bytes) -> bool:
        row = self._database.execute("SELECT seq FROM records WHERE tag = ?", (tag,)).fetchone()
        if row is None:
            return False
        self._database.execute("DELETE FROM records WHERE seq = ?", row)
        self._state.remove(self._keys.digest(tag, row[0]))
        return True


def pack_record(collection: bytes, key: bytes, value: bytes) -> bytes:
    """The plain form of a record: names travel inside, the file shows their tags only."""
    return b"".join((_HEAD.pack(len(collection), len(key)), collection, key, value))


def open_row(row: tuple[int, int, bytes, bytes], keys: DataKeys) -> Record:
    """The record in a row (seq, collection, tag, sealed). Raises VaultError."""
    db.check_types(row, (int, int, bytes, bytes))
    seq, number, tag, sealed = row
    plain = keys.sealer.unseal(sealed, Place(_COLUMN, number, seq, tag))
    name_bytes, key_bytes = _HEAD.unpack_from(plain)
    key_start = _HEAD.size + name_bytes
    value_start = key_start + key_bytes
    name = plain[_HEAD.size : key_start].decode()
    return Record(name, plain[key_start:value_start], plain[value_start:], seq)


def names_of(record: Record, keys: DataKeys) -> tuple[int, bytes]:
    """The collection's number and the record's tag under these keys."""
    number = keys.collection_id(record.collection)
    return number, keys.record_tag(number, record.key)


def seal_row(record: Record, keys: DataKeys) -> tuple[int, bytes, bytes]:
    """Collection, tag and sealed value of a record under other keys, at its sequence number."""
    number, tag = names_of(record, keys)
    plain = pack_record(record.collection.encode(), record.key, record.value)
    return number, tag, keys.sealer.seal(plain, Place(_COLUMN, number, record.seq, tag))


def damaged(path: object) -> VaultError:
    """The error for records that are each sound but not the set that was written."""
    return VaultError(
        f"{path}: records are missing or were put back from an older copy; restore it from a copy"
    )
