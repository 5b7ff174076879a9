"""What a vault knows about itself: how far it is, how often its key was used, which records it has.

It is sealed and rewritten in every transaction, so it cannot disagree with the records unnoticed.
"""

from __future__ import annotations

import os
import struct

from autoglm.errors import VaultError
from autoglm.privacy.vault.keys import KEY_BYTES, DataKeys
from autoglm.privacy.vault.seal import MAX_SEALS, Place

_ACTOR_BYTES = 16
_LAYOUT = struct.Struct(f">QQQQ32s{_ACTOR_BYTES}s{KEY_BYTES}s")
_PLACE = Place(b"state")
_DIGEST_MODULUS = 2**256


class State:
    """`generation` counts commits, `num_seals` the uses of the data key.

    `digest` is the keyed digest of the set of records; `actor` names this copy of the vault to
    peers, and changes when an old copy is taken back into use.
    """

    # Not a dataclass: the module alone would be a third of what opening a vault takes.
    __slots__ = (
        "actor",
        "anchor_key",
        "digest",
        "generation",
        "last_seq",
        "num_records",
        "num_seals",
    )

    def __init__(self, actor: bytes | None = None, anchor_key: bytes | None = None) -> None:
        """The state of a vault without commits; by default of one that nobody knows yet."""
        self.generation = self.num_seals = self.num_records = self.last_seq = self.digest = 0
        self.actor = actor or os.urandom(_ACTOR_BYTES)
        self.anchor_key = anchor_key or os.urandom(KEY_BYTES)

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
        state = cls(actor, anchor)
        state.generation, state.num_seals = generation, seals
        state.num_records, state.last_seq = records, seq
        state.digest = int.from_bytes(digest, "big")
        return state

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
