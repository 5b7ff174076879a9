"""Seals what versions say, so that the hub stores only ciphertext and clocks.

AES-256-GCM. Every process draws a salt and derives one key for each author it seals for; the nonce
is the version's counter, so it costs no bytes and cannot repeat under a key. Dot, cell, context,
clock and what the version needs are authenticated: a hub cannot move a payload. Many small
versions share one seal, under another key and with a random nonce.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from autoglm.errors import SyncError, require
from autoglm.sync.groups import groups_of, member, packed, unpacked
from autoglm.sync.version import Version

SALT_BYTES = 8
KEY_BYTES = 32
TAG_BYTES = 16
# Below this, zstd's frame costs more than it saves.
COMPRESS_ABOVE = 128
LEVEL = 9
MAX_PLAIN_BYTES = 2**22
NONCE_BYTES = 12
FORMAT = 1
_RAW, _ZSTD = b"\x00", b"\x01"


class _Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes: ...


class Sealer:
    """One process's view of a user's root key. The first bytes of a sealed payload are the salt."""

    def __init__(self, root_key: bytes, *, salt: bytes | None = None) -> None:
        """`root_key` has 32 random bytes. A salt is never given twice: leave it out."""
        if len(root_key) != KEY_BYTES:
            message = f"the root key has {len(root_key)} bytes; expected {KEY_BYTES}"
            raise SyncError(message)
        self._root_key = root_key
        self._salt = os.urandom(SALT_BYTES) if salt is None else salt
        self._aead = require("cryptography.hazmat.primitives.ciphers.aead", extra="sync")
        self._zstd = require("zstandard", extra="sync")
        self._cipher = lru_cache(maxsize=4096)(self._derive)
        self._index_key = self._expand(b"autoglm cells")

    def index_key(self) -> bytes:
        """The key that hides the names of cells."""
        return self._index_key

    def derived_key(self, purpose: bytes) -> bytes:
        """A key of its own for another purpose."""
        return self._expand(purpose)

    def seal(self, version: Version) -> Version:
        """The version with its payload encrypted."""
        cipher = self._cipher(b"autoglm versions", version.dot[0], self._salt)
        plain = self._compressed(version.payload)
        sealed = cipher.encrypt(_nonce(version), plain, _bound(version))
        return replace(version, payload=self._salt + sealed)

    def seal_all(self, versions: Sequence[Version]) -> tuple[Version, ...]:
        """The versions of a push with their payloads encrypted; small ones share one."""
        sealed: dict[int, Version] = {}
        for positions in groups_of(versions, self._index_key):
            members = [versions[n] for n in positions]
            payload = self._seal_group(members)
            for n in positions:
                sealed[n] = replace(versions[n], payload=payload, is_shared=True)
        return tuple(sealed.get(n) or self.seal(version) for n, version in enumerate(versions))

    def _seal_group(self, members: Sequence[Version]) -> bytes:
        cipher = self._cipher(b"autoglm groups", members[0].dot[0], self._salt)
        nonce = os.urandom(NONCE_BYTES)
        plain = self._compressed(packed(members))
        return self._salt + nonce + cipher.encrypt(nonce, plain, bytes([FORMAT]))

    def open_all(self, versions: Sequence[Version]) -> tuple[Version, ...]:
        """The versions with their payloads in the clear. Raises SyncError for one that is wrong."""
        opened: list[Version] = []
        groups: dict[tuple[int, bytes], dict[int, Version]] = {}
        for version in versions:
            if not version.is_shared:
                opened.append(self.open(version))
                continue
            key = version.dot[0], version.payload
            if key not in groups:
                groups[key] = self._open_group(*key)
            opened.append(member(version, groups[key]))
        return tuple(opened)

    def _open_group(self, actor: int, payload: bytes) -> dict[int, Version]:
        salt, rest = payload[:SALT_BYTES], payload[SALT_BYTES:]
        cipher = self._cipher(b"autoglm groups", actor, salt)
        try:
            plain = cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], bytes([FORMAT]))
            return unpacked(self._unpacked(plain), actor, self._index_key)
        except Exception as err:
            raise _unreadable() from err

    def open(self, version: Version) -> Version:
        """The version with its payload in the clear. Raises SyncError if it was not sealed so."""
        salt, sealed = version.payload[:SALT_BYTES], version.payload[SALT_BYTES:]
        cipher = self._cipher(b"autoglm versions", version.dot[0], salt)
        try:
            plain = cipher.decrypt(_nonce(version), sealed, _bound(version))
            return replace(version, payload=self._unpacked(plain))
        except Exception as err:
            raise _unreadable() from err

    def _compressed(self, plain: bytes) -> bytes:
        if len(plain) <= COMPRESS_ABOVE:
            return _RAW + plain
        smaller: bytes = self._zstd.ZstdCompressor(level=LEVEL).compress(plain)
        return min(_RAW + plain, _ZSTD + smaller, key=len)

    def _unpacked(self, plain: bytes) -> bytes:
        if plain[:1] == _RAW:
            return plain[1:]
        unpack: Callable[..., bytes] = self._zstd.ZstdDecompressor().decompress
        return unpack(plain[1:], max_output_size=MAX_PLAIN_BYTES)

    def _derive(self, purpose: bytes, actor: int, salt: bytes) -> _Cipher:
        info = purpose + actor.to_bytes(8, "big") + salt
        cipher: _Cipher = self._aead.AESGCM(self._expand(info))
        return cipher

    def _expand(self, info: bytes) -> bytes:
        hkdf = require("cryptography.hazmat.primitives.kdf.hkdf", extra="sync")
        hashes = require("cryptography.hazmat.primitives.hashes", extra="sync")
        key: bytes = hkdf.HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(
            self._root_key
        )
        return key


def _unreadable() -> SyncError:
    """Every library fails in its own way; all of them mean the same to the user."""
    return SyncError("a version cannot be opened: another key, or it was changed on the way")


def _nonce(version: Version) -> bytes:
    # A pending difference may be sealed again with its base in it: that is another payload.
    variant = b"\x00" if version.needs is None else b"\x01"
    return variant + version.dot[1].to_bytes(11, "big")


def _bound(version: Version) -> bytes:
    """What is authenticated beside the payload, without ambiguity."""
    context = [number for dot in version.context for number in dot]
    needs = version.needs or (0, 0)
    numbers = (
        FORMAT,
        version.dot[0],
        version.dot[1],
        version.stamp,
        version.is_tombstone,
        *needs,
        *context,
    )
    return version.cell + b"".join(int(number).to_bytes(8, "big") for number in numbers)
