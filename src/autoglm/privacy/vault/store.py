"""The vault: records sealed one by one in an SQLite file, for several threads and processes.

Owns opening, transactions, rollback detection, verification and rotation. Every commit is durable
before the call returns.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from autoglm.errors import UsageError, VaultError, VaultRollbackError
from autoglm.privacy.vault import database as db
from autoglm.privacy.vault.anchor import Anchor
from autoglm.privacy.vault.keys import VAULT_ID_BYTES, DataKeys, unwrap, wrap
from autoglm.privacy.vault.keystore import Keystore
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.seal import ROTATE_AT_SEALS
from autoglm.privacy.vault.state import State
from autoglm.privacy.vault.transaction import (
    Reader,
    Record,
    Transaction,
    damaged,
    names_of,
    open_row,
    seal_row,
)

_BATCH = 1000
_HEADER = "SELECT format, vault_id, keystore, key_id, wrapped, state FROM vault WHERE id = 1"
_ROWS = (
    f"SELECT seq, collection, tag, sealed FROM records WHERE seq > ? ORDER BY seq LIMIT {_BATCH}"
)

OnProgress = Callable[[int, int], None]


class _Header(NamedTuple):
    """The one row of the table `vault`."""

    format: int
    vault_id: bytes
    keystore: str
    key_id: int
    wrapped: bytes
    state: bytes


class VaultStatus(NamedTuple):
    """What can be told about a vault without its records."""

    vault_id: str
    actor: str
    keystore: str
    key_id: int
    generation: int
    num_records: int
    num_seals: int
    journal: str
    sqlite: str
    num_bytes: int


def _ignore_progress(done: int, total: int) -> None:
    """Nobody watches."""


class Vault:
    """An open vault. Safe to use from several threads; a forked child opens its own."""

    def __init__(
        self,
        paths: VaultPaths,
        keystore: Keystore,
        *,
        must_exist: bool = False,
        accept_rollback: bool = False,
    ) -> None:
        """Open the vault, or make it unless it `must_exist`.

        `accept_rollback` takes an old copy back into use, under a new `actor`. Raises
        VaultKeyError, VaultRollbackError, VaultError and StorageError.
        """
        if must_exist and not paths.database.exists():
            message = f"{paths.database}: there is no vault here"
            raise VaultError(message)
        self.paths = paths
        self._keystore = keystore
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._database = db.connect(paths.database)
        try:
            with db.translate_errors(paths.database):
                self._open(accept_rollback=accept_rollback)
        except BaseException:
            self._database.close()
            raise

    def _open(self, *, accept_rollback: bool) -> None:
        header = self._header() or self._create()
        if header.format != db.FORMAT:
            message = f"{self.paths.database}: format {header.format}; known is {db.FORMAT}"
            raise VaultError(message)
        kind = self._keystore.kind
        if header.keystore != kind:
            message = f"{self.paths.database}: opens by '{header.keystore}', not by '{kind}'"
            raise UsageError(message)
        self._vault_id = header.vault_id
        self._secret = self._keystore.read(header.vault_id)
        self._keys = self._unwrap(header)
        state = State.unseal(header.state, self._keys)
        self._anchor = Anchor(self.paths.anchor, state.anchor_key)
        reached = self._anchor.read()
        if reached is not None and reached > state.generation:
            # Another process may have committed between the two reads: its anchor comes after.
            state = self._state()
        if reached is not None and reached <= state.generation:
            return
        if not accept_rollback:
            seen = "nothing of it" if reached is None else f"its commit {reached}"
            message = (
                f"{self.paths.database}: the vault is at commit {state.generation}, this device "
                f"has seen {seen}; if you put a copy back on purpose, say --accept-rollback"
            )
            raise VaultRollbackError(message)
        self._take_back(max(state.generation, reached or 0))

    def _take_back(self, generation: int) -> None:
        """Use an old copy again: as another actor, and ahead of all that was seen."""
        with db.transaction(self._database, "IMMEDIATE"):
            state = self._state()
            state.generation = max(generation, state.generation)
            state.actor = os.urandom(len(state.actor))
            self._write_state(state)
        self._anchor.write(state.generation)
        self._anchor.sync()

    def _header(self) -> _Header | None:
        exists = "SELECT 1 FROM sqlite_schema WHERE name = 'vault'"
        if self._database.execute(exists).fetchone() is None:
            return None
        row = self._database.execute(_HEADER).fetchone()
        if row is None:
            return None
        db.check_types(row, (int, bytes, str, int, bytes, bytes))
        return _Header(*row)

    def _create(self) -> _Header:
        with db.transaction(self._database, "IMMEDIATE"):
            # Another process may have made it meanwhile.
            header = self._header()
            if header is not None:
                return header
            db.create_tables(self._database)
            vault_id = os.urandom(VAULT_ID_BYTES)
            secret = self._keystore.create(vault_id)
            keys = DataKeys.fresh(vault_id=vault_id, key_id=1)
            state = State()
            sealed = state.seal(keys)
            self.paths.anchor.unlink(missing_ok=True)
            anchor = Anchor(self.paths.anchor, state.anchor_key)
            anchor.write(0)
            anchor.sync()
            kind = self._keystore.kind
            header = _Header(db.FORMAT, vault_id, kind, 1, wrap(keys, secret), sealed)
            self._database.execute("INSERT INTO vault VALUES (1, ?, ?, ?, ?, ?, ?)", header)
        return header

    def _unwrap(self, header: _Header) -> DataKeys:
        return unwrap(header.wrapped, self._secret, vault_id=header.vault_id, key_id=header.key_id)

    def _state(self) -> State:
        """The committed state; follows a rotation that another process made."""
        header = self._header()
        if header is None:
            message = f"{self.paths.database}: the vault was erased"
            raise VaultError(message)
        if header.key_id != self._keys.sealer.key_id:
            self._keys = self._unwrap(header)
        return State.unseal(header.state, self._keys)

    def _follow_key(self) -> None:
        row = self._database.execute("SELECT key_id FROM vault WHERE id = 1").fetchone()
        if row is None or row[0] != self._keys.sealer.key_id:
            self._state()

    def _write_state(self, state: State) -> None:
        self._database.execute("UPDATE vault SET state = ?", (state.seal(self._keys),))

    @contextlib.contextmanager
    def _begin(self, kind: str) -> Iterator[None]:
        if os.getpid() != self._process:
            message = "the vault was opened before a fork; open it again in this process"
            raise VaultError(message)
        with self._lock:
            if self._database.in_transaction:
                message = "a transaction on the vault is open in this thread; end it first"
                raise UsageError(message)
            keys = self._keys
            try:
                with (
                    db.translate_errors(self.paths.database),
                    db.transaction(self._database, kind),
                ):
                    yield
            except BaseException:
                # Keys of a rotation that was not committed open nothing.
                self._keys = keys
                raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Read and write; what the block did is durable when it has ended, undone if it raises."""
        with self._lock:
            with self._begin("IMMEDIATE"):
                state = self._state()
                if state.num_seals >= ROTATE_AT_SEALS:
                    self._reseal(state, self._keystore.kind, self._secret, _ignore_progress)
                changes = Transaction(self._database, self._keys, state)
                yield changes
                if changes.is_changed:
                    self._write_state(state)
            if changes.is_changed:
                self._anchor.write(state.generation)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Reader]:
        with self._begin("DEFERRED"):
            self._follow_key()
            yield Reader(self._database, self._keys)

    def get(self, collection: str, key: bytes) -> bytes | None:
        """The value under `key`, None when there is none."""
        with self._reading() as reader:
            return reader.get(collection, key)

    def scan(self, collection: str, *, after: int = 0, limit: int = _BATCH) -> list[Record]:
        """Up to `limit` records written after sequence number `after`, oldest first."""
        with self._reading() as reader:
            return reader.scan(collection, after=after, limit=limit)

    def put(self, collection: str, key: bytes, value: bytes) -> int:
        """A transaction of one `put`."""
        with self.transaction() as changes:
            return changes.put(collection, key, value)

    def delete(self, collection: str, key: bytes) -> bool:
        """A transaction of one `delete`."""
        with self.transaction() as changes:
            return changes.delete(collection, key)

    def records(self) -> Iterator[Record]:
        """All records of all collections, oldest first, read in batches."""
        last = 0
        while True:
            with self._begin("DEFERRED"):
                self._follow_key()
                rows = self._rows(last)
                batch = [open_row(row, self._keys) for row in rows]
            if not batch:
                return
            yield from batch
            last = batch[-1].seq

    def _rows(self, last: int) -> list[tuple[int, int, bytes, bytes]]:
        """The next rows after sequence number `last`."""
        rows = self._database.execute(_ROWS, (last,)).fetchall()
        for row in rows:
            # A damaged index can lead in circles.
            if not isinstance(row[0], int) or row[0] <= last:
                raise damaged(self.paths.database)
            last = row[0]
        return rows

    def verify(self, progress: OnProgress = _ignore_progress) -> int:
        """Open every record and compare the set with what was committed; returns their number.

        Finds what a single read cannot: a record that was removed or put back from an old copy.
        """
        with self._begin("DEFERRED"):
            state = self._state()
            found = State(state.actor, state.anchor_key)
            last = 0
            while rows := self._rows(last):
                for row in rows:
                    record = open_row(row, self._keys)
                    if names_of(record, self._keys) != (row[1], row[2]):
                        raise damaged(self.paths.database)
                    found.add(self._keys.digest(row[2], row[0]))
                last = rows[-1][0]
                progress(found.num_records, state.num_records)
            if (found.digest, found.num_records) != (state.digest, state.num_records):
                raise damaged(self.paths.database)
        return found.num_records

    def rotate(
        self, keystore: Keystore | None = None, progress: OnProgress = _ignore_progress
    ) -> None:
        """Seal everything under a new data key, and that under another key store if one is given.

        One transaction: a crash leaves the old key in force, and after it nothing opens by that.
        """
        keystore = keystore or self._keystore
        with self._lock:
            with self._begin("IMMEDIATE"):
                state = self._state()
                secret = keystore.create(self._vault_id)
                self._reseal(state, keystore.kind, secret, progress)
                self._write_state(state)
            self._secret, self._keystore = secret, keystore
            self._anchor.write(state.generation)
            self._anchor.sync()
            # In WAL mode the old pages lie in the log until it is emptied.
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _reseal(self, state: State, kind: str, secret: bytes, progress: OnProgress) -> None:
        old = self._keys
        keys = DataKeys.fresh(vault_id=self._vault_id, key_id=old.sealer.key_id + 1)
        total, last = state.num_records, 0
        state.num_records = state.digest = state.num_seals = 0
        while rows := self._rows(last):
            for row in rows:
                record = open_row(row, old)
                number, tag, sealed = seal_row(record, keys)
                state.count_seal()
                state.add(keys.digest(tag, record.seq))
                self._database.execute(
                    "UPDATE records SET collection = ?, tag = ?, sealed = ? WHERE seq = ?",
                    (number, tag, sealed, record.seq),
                )
            last = rows[-1][0]
            progress(state.num_records, total)
        self._database.execute(
            "UPDATE vault SET keystore = ?, key_id = ?, wrapped = ?",
            (kind, keys.sealer.key_id, wrap(keys, secret)),
        )
        self._keys = keys

    def status(self) -> VaultStatus:
        """What can be told without the records."""
        with self._begin("DEFERRED"):
            state = self._state()
            return VaultStatus(
                vault_id=self._vault_id.hex(),
                actor=state.actor.hex(),
                keystore=self._keystore.kind,
                key_id=self._keys.sealer.key_id,
                generation=state.generation,
                num_records=state.num_records,
                num_seals=state.num_seals,
                journal=db.journal_mode(sqlite3.sqlite_version_info),
                sqlite=sqlite3.sqlite_version,
                num_bytes=self.paths.database.stat().st_size,
            )

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            if self._process == os.getpid():
                self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
