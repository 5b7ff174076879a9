"""Keyed hashes of identifiers: equal values stay equal, and only the key's owner can try values."""

from __future__ import annotations

import base64
import hmac

from autoglm.privacy.pii.fold import fold

_BYTES = 16


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """The first 128 bits of HMAC-SHA-256 over the kind and the value in its plainest spelling.

    A plain hash would not do: all eleven-digit numbers are hashed in minutes.
    """
    plain = "".join(fold(value).text.split()).replace("-", "").lower()
    digest = hmac.digest(key, f"{kind}\0{plain}".encode(), "sha256")[:_BYTES]
    return f"{kind}:{base64.b32encode(digest).decode().rstrip('=').lower()}"
