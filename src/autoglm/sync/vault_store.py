"""The device's store in the encrypted vault: rows are sealed on the disk and held in memory.

One process at a time owns it, by a lock on a file beside the vault.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.errors import StorageError
from autoglm.sync.store import MemoryStore, Row
from autoglm.sync.version import Dot, Version

if TYPE_CHECKING:
    from autoglm.privacy.vault.store import Vault
    from autoglm.privacy.vault.transaction import Transaction

ROWS, STATE = "sync rows", "sync state"
_STATE_KEY = b"state"
_DOT_BYTES = 16
_BATCH = 1000


class VaultStore(MemoryStore):
    """A MemoryStore whose transactions are the vault's. Close it before the vault."""

    def __init__(self, vault: Vault, lock: Path) -> None:
        """Read everything. Raises StorageError if another process owns the lock."""
        super().__init__()
        self._vault = vault
        self._writing: Transaction | None = None
        self._lock = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(self._lock)
            message = (
                f"{lock}: these records are open already, here or in another process; "
                "close them there first"
            )
            raise StorageError(message) from err
        super().save_state(vault.get(STATE, _STATE_KEY) or b"")
        last = 0
        while records := vault.scan(ROWS, after=last, limit=_BATCH):
            for record in records:
                super().put(_unpacked(record.key, record.value))
            last = records[-1].seq

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes in the block are in the vault when it ends, or none is."""
        with super().transaction(), self._vault.transaction() as writing:
            self._writing = writing
            try:
                yield
            finally:
                self._writing = None

    def save_state(self, state: bytes) -> None:
        """Replace the state."""
        super().save_state(state)
        if self._writing is not None:
            self._writing.put(STATE, _STATE_KEY, state)

    def put(self, row: Row) -> None:
        """Add or replace a row."""
        super().put(row)
        if self._writing is not None:
            self._writing.put(ROWS, _key(row.version.dot), _packed(row))

    def delete(self, dot: Dot) -> None:
        """Remove a row."""
        super().delete(dot)
        if self._writing is not None:
            self._writing.delete(ROWS, _key(dot))


def _key(dot: Dot) -> bytes:
    return dot[0].to_bytes(8, "big") + dot[1].to_bytes(8, "big")


def _packed(row: Row) -> bytes:
    """A line of JSON, then cell and payload as they are."""
    version = row.version
    head = {
        "cell": len(version.cell),
        "context": version.context,
        "stamp": version.stamp,
        "tombstone": version.is_tombstone,
        "needs": version.needs,
        "live": row.is_live,
        "generation": row.generation,
    }
    line = json.dumps(head, separators=(",", ":")).encode()
    return line + b"\n" + version.cell + version.payload


def _unpacked(key: bytes, value: bytes) -> Row:
    line, _, rest = value.partition(b"\n")
    head = json.loads(line)
    version = Version(
        (int.from_bytes(key[:8], "big"), int.from_bytes(key[8:_DOT_BYTES], "big")),
        rest[: head["cell"]],
        tuple((actor, counter) for actor, counter in head["context"]),
        head["stamp"],
        rest[head["cell"] :],
        head["tombstone"],
        None if head["needs"] is None else (head["needs"][0], head["needs"][1]),
    )
    return Row(version, head["live"], head["generation"])
