"""The seam to the device's disk: rows of versions and one small state, written in transactions.

`MemoryStore` keeps them in memory, for tests and for data that need not outlive the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from autoglm.sync.version import Dot, Version


@dataclass(frozen=True, slots=True)
class Row:
    """A version on the device. One that is not live is kept because a live one is built on it.

    `generation` tells the rows that a resynchronisation has confirmed from older ones.
    """

    version: Version
    is_live: bool
    generation: int


class Store(Protocol):
    """What a device remembers. Reads see the transaction's own writes."""

    def transaction(self) -> AbstractContextManager[None]:
        """All writes in the block reach the disk, or none does. Raises StorageError."""

    def load_state(self) -> bytes:
        """What `save_state` wrote last; empty at first."""

    def save_state(self, state: bytes) -> None:
        """Replace the state."""

    def cell(self, cell: bytes) -> list[Row]:
        """All rows of a cell."""

    def cells(self) -> list[bytes]:
        """Every cell that has rows."""

    def pending(self, actor: int, after: int, limit: int) -> list[Row]:
        """The rows of an author above a counter, in order."""

    def stale(self, generation: int) -> list[Row]:
        """Rows of earlier generations."""

    def put(self, row: Row) -> None:
        """Add a row, or replace the one with the same dot."""

    def delete(self, dot: Dot) -> None:
        """Remove a row."""


class MemoryStore:
    """A store that forgets with its process; a transaction that fails leaves no trace."""

    def __init__(self) -> None:
        self._rows: dict[Dot, Row] = {}
        self._cells: dict[bytes, dict[Dot, Row]] = {}
        self._state = b""
        self._undo: list[tuple[Dot, Row | None]] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Undo the block's writes if it raises."""
        state = self._state
        self._undo.clear()
        try:
            yield
        except BaseException:
            for dot, row in reversed(self._undo):
                self.delete(dot)
                if row is not None:
                    self.put(row)
            self._state = state
            raise

    def load_state(self) -> bytes:
        """The state."""
        return self._state

    def save_state(self, state: bytes) -> None:
        """Replace the state."""
        self._state = state

    def cell(self, cell: bytes) -> list[Row]:
        """All rows of a cell."""
        return list(self._cells.get(cell, {}).values())

    def cells(self) -> list[bytes]:
        """Every cell that has rows."""
        return list(self._cells)

    def pending(self, actor: int, after: int, limit: int) -> list[Row]:
        """The rows of an author above a counter, in order."""
        found = [dot for dot in self._rows if dot[0] == actor and dot[1] > after]
        return [self._rows[dot] for dot in sorted(found)[:limit]]

    def stale(self, generation: int) -> list[Row]:
        """Rows of earlier generations."""
        return [row for row in self._rows.values() if row.generation < generation]

    def put(self, row: Row) -> None:
        """Add or replace a row."""
        dot = row.version.dot
        self._undo.append((dot, self._rows.get(dot)))
        self._rows[dot] = row
        self._cells.setdefault(row.version.cell, {})[dot] = row

    def delete(self, dot: Dot) -> None:
        """Remove a row."""
        row = self._rows.pop(dot, None)
        if row is None:
            return
        self._undo.append((dot, row))
        cell = self._cells[row.version.cell]
        del cell[dot]
        if not cell:
            del self._cells[row.version.cell]
