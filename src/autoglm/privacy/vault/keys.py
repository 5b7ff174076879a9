"""Key hierarchy: secret of a key store -> key-encryption key -> data key -> keys by purpose.

The data key is random and stored wrapped; nothing but the key store's secret opens it.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from autoglm.errors import VaultError, VaultKeyError
from autoglm.privacy.vault.seal import Place, Sealer

KEY_BYTES = 32
VAULT_ID_BYTES = 16
RECORD_TAG_BYTES = 16
_WRAPPED = Place(b"data-key")


def derive(secret: bytes, purpose: str, *, salt: bytes) -> bytes:
    """A key of 32 bytes for one purpose."""
    return hkdf(secret, salt, f"autoglm vault 1 {purpose}".encode())


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes by HKDF-SHA-256 (RFC 5869), its first block.

    The standard library is enough, and the class of `cryptography` costs an opening 3 ms.
    """
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


class DataKeys:
    """What one data key gives: a sealer, hidden names of records, and digests of the set."""

    def __init__(self, data_key: bytes, *, vault_id: bytes, key_id: int) -> None:
        self.data_key = data_key
        self.sealer = Sealer(derive(data_key, "records", salt=vault_id), vault_id, key_id)
        self._index_key = derive(data_key, "index", salt=vault_id)
        self._digest_key = derive(data_key, "digest", salt=vault_id)

    @classmethod
    def fresh(cls, *, vault_id: bytes, key_id: int) -> DataKeys:
        """Keys from a new random data key."""
        return cls(os.urandom(KEY_BYTES), vault_id=vault_id, key_id=key_id)

    def collection_id(self, name: str) -> int:
        """The number that stands for a collection in the file."""
        return int.from_bytes(self._tag(b"c" + name.encode())[:8], "big", signed=True)

    def record_tag(self, collection: int, key: bytes) -> bytes:
        """What stands for a record's key in the file."""
        return self._tag(b"r" + collection.to_bytes(8, "big", signed=True) + key)

    def _tag(self, message: bytes) -> bytes:
        return hmac.digest(self._index_key, message, "sha256")[:RECORD_TAG_BYTES]

    def digest(self, tag: bytes, version: int) -> int:
        """A record's share in the digest of the whole set, which is their sum modulo 2^256."""
        message = version.to_bytes(8, "big") + tag
        return int.from_bytes(
            hashlib.blake2b(message, key=self._digest_key, digest_size=32).digest(), "big"
        )


def wrap(keys: DataKeys, secret: bytes) -> bytes:
    """The data key sealed under the key that `secret` gives."""
    return _wrapper(keys.sealer, secret).seal(keys.data_key, _WRAPPED)


def unwrap(wrapped: bytes, secret: bytes, *, vault_id: bytes, key_id: int) -> DataKeys:
    """The keys in `wrapped`. Raises VaultKeyError, one and the same whatever is wrong."""
    bare = Sealer(secret, vault_id, key_id)
    try:
        data_key = _wrapper(bare, secret).unseal(wrapped, _WRAPPED)
    except VaultError:
        message = "this key does not open the vault"
        raise VaultKeyError(message) from None
    return DataKeys(data_key, vault_id=vault_id, key_id=key_id)


def _wrapper(sealer: Sealer, secret: bytes) -> Sealer:
    kek = derive(secret, "key-encryption key", salt=sealer.vault_id)
    return Sealer(kek, sealer.vault_id, sealer.key_id)
