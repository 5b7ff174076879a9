"""Large values in sealed blocks: what the other side has is not sent again, broken transfers go on.

A block is named by a keyed hash of its content, and the name's first bytes are its nonce, so equal
blocks of one user are stored once. The manifest goes into a field of a record.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from autoglm.errors import StorageError, SyncError, require
from autoglm.protocol.v1.entry_pb2 import BlobManifest
from autoglm.sync.seal import Sealer

BLOCK_BYTES = 2**16
NAME_BYTES = 16
NONCE_BYTES = 12
MAX_BLOCKS = 2**16
# How often a block that arrived broken is asked for again.
ATTEMPTS = 4
PARTIAL = ".part"


class BrokenBlockError(SyncError):
    """A block that was changed on the way, or is another's."""


class BlockHub(Protocol):
    """Where blocks are stored. Every call may raise CloudError, and can then be repeated."""

    def missing(self, names: Sequence[bytes]) -> set[bytes]:
        """Those of the names that are not stored."""

    def put(self, name: bytes, data: bytes) -> None:
        """Store a block; it is stored when the call returns."""

    def get(self, name: bytes) -> bytes:
        """A block. Raises SyncError if there is none."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a blob consists of."""

    num_bytes: int
    digest: bytes
    names: tuple[bytes, ...]

    def encode(self) -> bytes:
        """As the value of a field."""
        names = b"".join(self.names)
        return BlobManifest(
            num_bytes=self.num_bytes, digest=self.digest, names=names
        ).SerializeToString()

    @staticmethod
    def decode(data: bytes) -> Manifest:
        """From the value of a field. Raises SyncError."""
        protobuf = require("google.protobuf.message", extra="sync")
        try:
            message = BlobManifest.FromString(data)
        except protobuf.DecodeError as err:
            text = "the field holds no manifest of a blob"
            raise SyncError(text) from err
        count, rest = divmod(len(message.names), NAME_BYTES)
        if rest or count > MAX_BLOCKS or count != -(-message.num_bytes // BLOCK_BYTES):
            text = f"a manifest names {count} blocks for {message.num_bytes} bytes"
            raise SyncError(text)
        names = (message.names[n * NAME_BYTES : (n + 1) * NAME_BYTES] for n in range(count))
        return Manifest(message.num_bytes, message.digest, tuple(names))


class BlockSealer:
    """Names, seals and opens blocks."""

    def __init__(self, sealer: Sealer) -> None:
        aead = require("cryptography.hazmat.primitives.ciphers.aead", extra="sync")
        self._name_key = sealer.derived_key(b"autoglm block names")
        self._cipher = aead.AESGCM(sealer.derived_key(b"autoglm blocks"))

    def name(self, block: bytes) -> bytes:
        """The block's name, which tells nothing to who has not the key."""
        return hashlib.blake2b(block, key=self._name_key, digest_size=NAME_BYTES).digest()

    def seal(self, name: bytes, block: bytes) -> bytes:
        """The block encrypted."""
        sealed: bytes = self._cipher.encrypt(name[:NONCE_BYTES], block, name)
        return sealed

    def open(self, name: bytes, data: bytes) -> bytes:
        """The block. Raises BrokenBlockError if it is another or was changed."""
        exceptions = require("cryptography.exceptions", extra="sync")
        try:
            block: bytes = self._cipher.decrypt(name[:NONCE_BYTES], data, name)
        except exceptions.InvalidTag as err:
            message = "a block arrived broken"
            raise BrokenBlockError(message) from err
        return block


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def upload(path: Path, sealer: BlockSealer, hub: BlockHub) -> Manifest:
    """Bring a file's blocks to the hub; call it again after a failure and it goes on.

    Raises CloudError, StorageError, and SyncError for a file that changed meanwhile.
    """
    digest, names, num_bytes = hashlib.sha256(), [], 0
    with _opened(path) as file:
        for block in _blocks(file):
            digest.update(block)
            names.append(sealer.name(block))
            num_bytes += len(block)
        if len(names) > MAX_BLOCKS:
            message = f"{path}: {num_bytes} bytes; at most {MAX_BLOCKS * BLOCK_BYTES}"
            raise StorageError(message)
        missing = hub.missing(names)
        file.seek(0)
        for name, block in zip(names, _blocks(file), strict=True):
            if name not in missing:
                continue
            if sealer.name(block) != name:
                message = f"{path} was changed while it was read; try again"
                raise SyncError(message)
            hub.put(name, sealer.seal(name, block))
            missing.discard(name)
    return Manifest(num_bytes, digest.digest(), tuple(names))


def download(manifest: Manifest, path: Path, sealer: BlockSealer, hub: BlockHub) -> None:
    """Write a blob to `path`, which appears whole; call it again after a failure and it goes on.

    Raises CloudError, StorageError, and SyncError if the hub lacks a block or all are broken.
    """
    partial = path.with_name(path.name + PARTIAL)
    with _opened(partial, is_new=not partial.exists()) as file:
        for n, name in enumerate(manifest.names):
            file.seek(n * BLOCK_BYTES)
            if sealer.name(file.read(BLOCK_BYTES)) == name:
                continue
            block = _fetched(name, sealer, hub)
            file.seek(n * BLOCK_BYTES)
            file.write(block)
        file.truncate(manifest.num_bytes)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        digest = hashlib.sha256()
        for block in _blocks(file):
            digest.update(block)
    if digest.digest() != manifest.digest:
        partial.unlink()
        message = f"{path}: the blocks are not those of the manifest"
        raise SyncError(message)
    partial.replace(path)


def _fetched(name: bytes, sealer: BlockSealer, hub: BlockHub) -> bytes:
    for _ in range(ATTEMPTS - 1):
        try:
            return sealer.open(name, hub.get(name))
        except BrokenBlockError:
            continue
    return sealer.open(name, hub.get(name))


def _opened(path: Path, *, is_new: bool = False) -> BinaryIO:
    try:
        if is_new:
            return path.open("w+b")
        return path.open("r+b") if path.suffix == PARTIAL else path.open("rb")
    except OSError as err:
        message = f"{path}: {err.strerror or err}"
        raise StorageError(message) from err
