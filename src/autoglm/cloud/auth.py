"""Bearer tokens: a tenant's name and an end, signed by the service's secret (JWT, HS256)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import jwt

from autoglm.errors import UsageError

ALGORITHM = "HS256"
AUDIENCE = "autoglm-cloud"
MAX_DAYS = 3_650
TENANT = re.compile(r"[A-Za-z0-9._@-]{1,128}")


def make_token(secret: bytes, tenant: str, *, days: float) -> str:
    """A token that lets its bearer act for `tenant`. Raises UsageError."""
    if not TENANT.fullmatch(tenant):
        message = f"tenant {tenant!r} has other characters than letters, digits and . _ @ -"
        raise UsageError(message)
    if not 0 < days <= MAX_DAYS:
        message = f"a token for {days} days; expected up to {MAX_DAYS}"
        raise UsageError(message)
    claims = {"sub": tenant, "aud": AUDIENCE, "exp": int(time.time() + days * 86_400)}
    return jwt.encode(claims, secret, ALGORITHM)


def bearer_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What a request's one Authorization header bears; None without exactly one."""
    given = [value for name, value in headers if name.lower() == b"authorization"]
    if len(given) != 1:
        return None
    scheme, _, token = given[0].decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def tenant_of(secret: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The tenant that a request speaks for, None if it does not for any."""
    token = bearer_of(headers)
    if token is None:
        return None
    try:
        claims = jwt.decode(
            token,
            secret,
            [ALGORITHM],
            audience=AUDIENCE,
            options={"require": ["exp", "sub", "aud"]},
        )
    except jwt.PyJWTError:
        return None
    tenant = claims["sub"]
    return tenant if isinstance(tenant, str) and TENANT.fullmatch(tenant) else None
