"""A device's disk in the simulator: transactions that crash before or after they are durable."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from autoglm.errors import StorageError
from autoglm.sync.store import MemoryStore, Row
from autoglm.sync.version import Dot


class CrashError(Exception):
    """The device lost power; what its memory held is gone."""


class Disk(MemoryStore):
    """What survives a crash. `is_durable` False is the control: commits wait in a cache."""

    def __init__(self, rng: random.Random, *, is_durable: bool = True) -> None:
        super().__init__()
        self.crash_rate = 0.0
        self.full_rate = 0.0
        self._rng = rng
        self._is_durable = is_durable
        self._last_durable: tuple[dict[Dot, Row], bytes] = ({}, b"")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Fail before the commit, or crash on either side of it, at the rates that are set."""
        with super().transaction():
            yield
            if self._rng.random() < self.full_rate:
                message = "the disk is full"
                raise StorageError(message)
            if self._rng.random() < self.crash_rate:
                raise CrashError
        if self._is_durable or self._rng.random() < 0.5:
            self._last_durable = self.image()
        if self._rng.random() < self.crash_rate:
            raise CrashError

    def image(self) -> tuple[dict[Dot, Row], bytes]:
        """Everything on the disk, as a backup."""
        return dict(self._rows), self._state

    def lose_power(self) -> None:
        """Go back to what is durable."""
        if not self._is_durable:
            self.restore(self._last_durable)

    def restore(self, image: tuple[dict[Dot, Row], bytes]) -> None:
        """Replace everything by a backup."""
        rows, self._state = image
        self._rows = dict(rows)
        self._cells = {}
        for dot, row in rows.items():
            self._cells.setdefault(row.version.cell, {})[dot] = row
