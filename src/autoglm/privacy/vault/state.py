"""What a vault knows about itself: how far it is, how often its key was used, which records it has.

It is sealed and rewritten in every transaction, so it cannot disagree with the records unnoticed.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field

from autoglm.errors import VaultError
from autoglm.privacy.vault.keys import KEY_BYTES, DataKeys
from autoglm.privacy.vault.seal import MAX_SEALS, Place

_LAYOUT = struct.Struct(">QQQQ32s16s32s")
_PLACE = Place(b"state")
_DIGEST_MODULUS = 2**256


@dataclass(slots=True)
class State:
    """`generation` counts commits, `num_seals` the uses of the data key.

    `digest` is the keyed digest of the set of records; `actor` names this copy of the vault to
    peers, and changes when an old copy is taken back into use.
    """

    generation: int = 0
    num_seals: int = 0
    num_records: int = 0
    last_seq: int = 0
    digest: int = 0
    actor: bytes = field(default_factory=lambda: os.urandom(16))
    anchor_key: bytes = field(default_factory=lambda: os.urandom(KEY_BYTES), repr=False)

    def seal(self, keys: DataKeys) -> bytes:
        """The sealed state of the next commit."""
        self.generation += 1
        self.count_seal()
        plain = _LAYOUT.pack(
            self.generation,
            self.num_seals,
            self.num_records,
            self.last_seq,
            self.digest.to_bytes(32, "big"),
            self.actor,
            self.anchor_key,
        )
        return keys.sealer.seal(plain, _PLACE)

    @classmethod
    def unseal(cls, sealed: bytes, keys: DataKeys) -> State:
        """The state last committed. Raises VaultError."""
        generation, seals, records, seq, digest, actor, anchor = _LAYOUT.unpack(
            keys.sealer.unseal(sealed, _PLACE)
        )
        number = int.from_bytes(digest, "big")
        return cls(generation, seals, records, seq, number, actor, anchor)

    def count_seal(self) -> None:
        """Count one use of the data key. Raises VaultError at the bound of its nonces."""
        if self.num_seals >= MAX_SEALS:
            message = "the vault's key has been used 2^32 times; run: autoglm vault rotate"
            raise VaultError(message)
        self.num_seals += 1

    def add(self, share: int) -> None:
        """Count a record that was added; `share` is its digest."""
        self.num_records += 1
        self.digest = (self.digest + share) % _DIGEST_MODULUS

    def remove(self, share: int) -> None:
        """Count a record that was removed."""
        self.num_records -= 1
        self.digest = (self.digest - share) % _DIGEST_MODULUS
