"""Sealing of single values: AES-256-GCM with random nonces and bound context.

Owns the layout of a sealed value and of its associated data; keys come from `keys`.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from autoglm.errors import VaultError

SCHEMA = 1
NONCE_BYTES = 12
TAG_BYTES = 16
# NIST SP 800-38D bounds random 96-bit nonces at 2^32 uses of a key.
ROTATE_AT_SEALS = 2**28
MAX_SEALS = 2**32

_CONTEXT = struct.Struct(">16sIHqQ8sB")
_DAMAGED = "the vault holds a value that was damaged, moved or forged"


class Place(NamedTuple):
    """Where a sealed value belongs; a value opened at any other place is refused.

    `column` names the kind of value, `collection` and `tag` the record, `version` its sequence
    number.
    """

    column: bytes
    collection: int = 0
    version: int = 0
    tag: bytes = b""


class Sealer:
    """One key of one vault."""

    def __init__(self, key: bytes, vault_id: bytes, key_id: int) -> None:
        self.vault_id = vault_id
        self.key_id = key_id
        self._cipher = AESGCM(key)

    def _context(self, place: Place) -> bytes:
        column = place.column.ljust(8, b"\0")
        head = _CONTEXT.pack(
            self.vault_id,
            self.key_id,
            SCHEMA,
            place.collection,
            place.version,
            column,
            len(place.tag),
        )
        return head + place.tag

    def seal(self, plain: bytes, place: Place) -> bytes:
        """Nonce, ciphertext and tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, self._context(place))

    def unseal(self, sealed: bytes, place: Place) -> bytes:
        """The plain value. Raises VaultError when it was changed or belongs elsewhere."""
        if len(sealed) < NONCE_BYTES + TAG_BYTES:
            raise VaultError(_DAMAGED)
        try:
            return self._cipher.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._context(place)
            )
        except InvalidTag as err:
            raise VaultError(_DAMAGED) from err
