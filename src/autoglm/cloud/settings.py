"""The settings of the cloud service, from `AUTOGLM_CLOUD_*` variables and flags, then defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from autoglm.errors import UsageError

PREFIX = "AUTOGLM_CLOUD_"
MIN_SECRET_BYTES = 32

_RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "pool_min": (0, 1_000),
    "pool_max": (1, 1_000),
    "pool_idle_s": (0, 86_400),
    "pool_queries": (1, 10**9),
    "pool_wait_s": (0.1, 600),
    "query_s": (0.1, 600),
    "drain_s": (0, 3_600),
    "horizon_days": (1, 3_650),
    "slots": (1, 10_000),
    "queue": (0, 100_000),
    "resume_s": (0, 86_400),
    "token_minutes": (1, 1_440),
    "renewal_days": (1, 3_650),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSettings:
    """`database` is a libpq URL of the service's role, `secret_file` holds the key of the tokens.

    The pool keeps between `pool_min` and `pool_max` connections, closes one that was idle for
    `pool_idle_s` or ran `pool_queries`, and makes a request wait `pool_wait_s` at most. `drain_s`
    is how long open requests may take when the service stops; `horizon_days` how long tombstones
    are kept. `slots` answers run at once and `queue` wait; a finished or interrupted one can be
    resumed for `resume_s`. A device's token is good for `token_minutes`, and it may stay away for
    `renewal_days` before it has to be enrolled again.
    """

    database: str = ""
    secret_file: str = ""
    host: str = "127.0.0.1"
    port: int = 8443
    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    pool_min: int = 1
    pool_max: int = 10
    pool_idle_s: float = 300.0
    pool_queries: int = 50_000
    pool_wait_s: float = 5.0
    query_s: float = 15.0
    drain_s: float = 20.0
    horizon_days: float = 90.0
    slots: int = 8
    queue: int = 256
    resume_s: float = 60.0
    token_minutes: float = 60.0
    renewal_days: float = 90.0

    def __post_init__(self) -> None:
        """Raises UsageError."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                message = f"{name} is {value}; expected {low:g} to {high:g}"
                raise UsageError(message)
        if self.pool_min > self.pool_max:
            message = f"pool_min is {self.pool_min}, above pool_max {self.pool_max}"
            raise UsageError(message)
        if bool(self.certificate) != bool(self.key):
            message = "TLS needs both certificate and key"
            raise UsageError(message)
        if self.client_ca and not self.certificate:
            message = "client_ca asks for certificates of clients, which needs TLS"
            raise UsageError(message)

    def secret(self) -> bytes:
        """The key that signs tokens. Raises UsageError."""
        if not self.secret_file:
            message = f"no secret: set {PREFIX}SECRET_FILE to a file of {MIN_SECRET_BYTES} bytes"
            raise UsageError(message)
        try:
            secret = Path(self.secret_file).read_bytes().strip()
        except OSError as err:
            message = f"{self.secret_file}: {err.strerror or err}"
            raise UsageError(message) from err
        if len(secret) < MIN_SECRET_BYTES:
            message = f"{self.secret_file}: {len(secret)} bytes; at least {MIN_SECRET_BYTES}"
            raise UsageError(message)
        return secret


def load_cloud_settings(flags: Mapping[str, Any], *, environ: Mapping[str, str]) -> CloudSettings:
    """Flags that are not None, then the environment, then defaults. Raises UsageError."""
    values: dict[str, Any] = {}
    kinds = {item.name: str(item.type) for item in fields(CloudSettings)}
    for variable, text in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or not text:
            continue
        if name not in kinds:
            known = ", ".join(PREFIX + kind.upper() for kind in kinds)
            message = f"{variable} is no setting; known: {known}"
            raise UsageError(message)
        values[name] = _converted(variable, text, kinds[name])
    values.update({name: value for name, value in flags.items() if value is not None})
    return CloudSettings(**values)


def _converted(variable: str, text: str, kind: str) -> str | int | float:
    try:
        match kind:
            case "int":
                return int(text)
            case "float":
                return float(text)
            case _:
                return text
    except ValueError as err:
        message = f"{variable} is {text!r}; expected a number"
        raise UsageError(message) from err
