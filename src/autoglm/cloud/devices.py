"""Devices of a tenant: enrolled once by an invitation, then with tokens that they renew themselves.

An invitation and a renewal are JWTs like the tokens, for another audience. A renewal holds how many
came before it: where two use one device's renewals, one of them falls behind, which revokes both.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

import jwt

from autoglm.cloud.auth import ALGORITHM, TENANT, bearer_of, make_token
from autoglm.cloud.database import Database
from autoglm.errors import UsageError

INVITATION = "autoglm-invitation"
RENEWAL = "autoglm-renewal"
MAX_MINUTES = 7 * 24 * 60
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Granted:
    """A token for `seconds`, and what brings the next one."""

    token: str
    renewal: str
    seconds: float


def make_invitation(secret: bytes, tenant: str, *, minutes: float) -> tuple[str, str]:
    """An invitation for one device of a tenant, and the id the device will have.

    Raises UsageError.
    """
    if not TENANT.fullmatch(tenant) or not 0 < minutes <= MAX_MINUTES:
        message = f"an invitation of tenant {tenant!r} for {minutes} minutes, up to {MAX_MINUTES}"
        raise UsageError(message)
    device = secrets.token_hex(8)
    claims = {"sub": tenant, "aud": INVITATION, "exp": time.time() + minutes * 60, "jti": device}
    return jwt.encode(claims, secret, ALGORITHM), device


class Devices:
    """Gives tokens to devices. Raises StorageError when the database fails."""

    def __init__(
        self, database: Database, secret: bytes, *, token_minutes: float, renewal_days: float
    ) -> None:
        self._database = database
        self._secret = secret
        self._token_s = token_minutes * 60
        self._renewal_s = renewal_days * DAY_S

    async def grant(self, headers: list[tuple[bytes, bytes]]) -> Granted | None:
        """A token for the bearer of an invitation or a renewal; None if it is not good any more."""
        given = bearer_of(headers)
        if given is None:
            return None
        try:
            claims = jwt.decode(
                given,
                self._secret,
                [ALGORITHM],
                audience=[INVITATION, RENEWAL],
                options={"require": ["exp", "sub", "aud", "jti"]},
            )
        except jwt.PyJWTError:
            return None
        tenant, device = claims["sub"], claims["jti"]
        number = claims.get("number")
        if number is None:
            is_good = await self._enrol(tenant, device)
        else:
            is_good = await self._renew(tenant, device, number)
        return self._granted(tenant, device, (number or 0) + 1) if is_good else None

    def _granted(self, tenant: str, device: str, number: int) -> Granted:
        claims = {
            "sub": tenant,
            "aud": RENEWAL,
            "exp": time.time() + self._renewal_s,
            "jti": device,
            "number": number,
        }
        token = make_token(self._secret, tenant, days=self._token_s / DAY_S)
        return Granted(token, jwt.encode(claims, self._secret, ALGORITHM), self._token_s)

    async def _enrol(self, tenant: str, device: str) -> bool:
        """Whether the invitation is used for the first time."""
        async with self._database.transaction(tenant) as (connection, number):
            done: str = await connection.execute(
                "INSERT INTO device (tenant, id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                number,
                device,
            )
        return done == "INSERT 0 1"

    async def _renew(self, tenant: str, device: str, number: int) -> bool:
        """Whether this is the latest renewal, or the one before: its answer may have been lost."""
        async with self._database.transaction(tenant) as (connection, owner):
            latest: int | None = await connection.fetchval(
                "SELECT renewals FROM device WHERE tenant = $1 AND id = $2 AND NOT is_revoked"
                " FOR UPDATE",
                owner,
                device,
            )
            if latest is None:
                return False
            is_good = latest <= number <= latest + 1
            await connection.execute(
                "UPDATE device SET renewals = greatest(renewals, $3), is_revoked = $4, seen = now()"
                " WHERE tenant = $1 AND id = $2",
                owner,
                device,
                number if is_good else latest,
                not is_good,
            )
        return is_good


async def revoke(database: Database, tenant: str, device: str) -> bool:
    """Give the device no more tokens; False if the tenant has no such device."""
    async with database.transaction(tenant) as (connection, owner):
        done: str = await connection.execute(
            "UPDATE device SET is_revoked = true WHERE tenant = $1 AND id = $2", owner, device
        )
    return done == "UPDATE 1"
