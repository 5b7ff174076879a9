"""The memory outside the vault of how far it had come: an older vault is a rollback.

Two slots are written in turn, so a torn write leaves the other. It is written after each commit
and never ahead of it; without an fsync, so after a power loss it may lag, but never accuse wrongly.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from autoglm.privacy.key_file import sync_directory

_SLOT = struct.Struct(">Q32s")
_SLOT_BYTES = 512


class Anchor:
    """A file that holds the generation of the last commit that this device saw."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self._key = key

    def write(self, generation: int) -> None:
        """Remember that the vault has reached `generation`."""
        number = generation.to_bytes(8, "big")
        slot = number + hmac.digest(self._key, number, "sha256")
        with self._opened(os.O_WRONLY | os.O_CREAT) as descriptor:
            os.pwrite(descriptor, slot, generation % 2 * _SLOT_BYTES)

    def sync(self) -> None:
        """Make what was written durable."""
        with self._opened(os.O_WRONLY | os.O_CREAT) as descriptor:
            os.fsync(descriptor)
        sync_directory(self.path.parent)

    def read(self) -> int | None:
        """The latest generation written; None when the file is missing or no slot is whole."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        found = [self._number(content, place) for place in (0, _SLOT_BYTES)]
        return max((number for number in found if number is not None), default=None)

    def _number(self, content: bytes, place: int) -> int | None:
        if len(content) < place + _SLOT.size:
            return None
        number, tag = _SLOT.unpack_from(content, place)
        whole = hmac.digest(self._key, number.to_bytes(8, "big"), "sha256")
        return number if hmac.compare_digest(tag, whole) else None

    @contextlib.contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        try:
            descriptor = os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, flags, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
