"""The name of the cell that an entry belongs to: a keyed digest that tells the hub nothing."""

from __future__ import annotations

import hashlib

from autoglm.protocol.v1.entry_pb2 import Entry

CELL_BYTES = 10


def cell_of(index_key: bytes, entry: Entry) -> bytes:
    """The cell of a field, of an element of a set, or of one device's share of a counter."""
    digest = hashlib.blake2b(bytes([entry.kind]), key=index_key, digest_size=CELL_BYTES)
    for part in (entry.record.encode(), entry.field.encode(), entry.member):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()
