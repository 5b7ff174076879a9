"""The settings of the service: the table `[serve]` of the configuration file, then defaults.

Flags of `autoglm serve` come before the file. What can change while it runs is marked `live`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from autoglm.config import config_path, read_section
from autoglm.errors import UsageError

SECTION = "serve"
MAX_SLOTS = 64
LOG_LEVELS = ("quiet", "requests")
# What requests get that say nothing else.
SAMPLING_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (1e-9, 1),
    "top_k": (0, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (1e-3, 1e3),
}
LIVE: Mapping[str, bool] = {"live": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """`models` are directories of bundles, none the model of `Settings`.

    `slots` requests run at once, `queue` wait, the rest is refused. `keep_alive_s` is how long an
    unused model stays in memory, below 0 for ever. `memory_mib` bounds all models in memory, 0
    leaves it to the machine. `timeout_s` bounds a request, 0 does not. `kv_mib` above 0 keeps so
    much of what was read on disk, sealed by a key in the vault in the directory `vault`, by default
    the user's own.
    """

    models: tuple[str, ...] = field(default=(), metadata=LIVE)
    host: str = "127.0.0.1"
    port: int = 8080
    allow_remote: bool = False
    api_key_file: str | None = None
    hosts: tuple[str, ...] = ()
    slots: int = field(default=8, metadata=LIVE)
    queue: int = field(default=32, metadata=LIVE)
    memory_mib: int = field(default=0, metadata=LIVE)
    kv_mib: int = 0
    vault: str | None = None
    timeout_s: float = field(default=0.0, metadata=LIVE)
    keep_alive_s: float = field(default=300.0, metadata=LIVE)
    temperature: float | None = field(default=None, metadata=LIVE)
    top_p: float | None = field(default=None, metadata=LIVE)
    top_k: int | None = field(default=None, metadata=LIVE)
    min_p: float | None = field(default=None, metadata=LIVE)
    repetition_penalty: float | None = field(default=None, metadata=LIVE)
    log: str = field(default="requests", metadata=LIVE)

    def __post_init__(self) -> None:
        """Raises UsageError."""
        _check("port", self.port, 0, 65535)
        _check("slots", self.slots, 1, MAX_SLOTS)
        _check("queue", self.queue, 0, 10_000)
        _check("memory_mib", self.memory_mib, 0, 2**24)
        _check("kv_mib", self.kv_mib, 0, 2**24)
        _check("timeout_s", self.timeout_s, 0, 86_400)
        _check("keep_alive_s", self.keep_alive_s, -1, 1e9)
        for name, (low, high) in SAMPLING_RANGES.items():
            value = getattr(self, name)
            if value is not None:
                _check(name, value, low, high)
        if self.log not in LOG_LEVELS:
            message = f"log is {self.log!r}; expected one of {', '.join(LOG_LEVELS)}"
            raise UsageError(message)

    def changed(self, other: ServeSettings) -> list[str]:
        """The names of what differs."""
        names = [item.name for item in fields(self)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def with_live(self, other: ServeSettings) -> ServeSettings:
        """These settings with what may change while running taken from `other`."""
        names = [item.name for item in fields(self) if item.metadata.get("live")]
        return replace(self, **{name: getattr(other, name) for name in names})


def load_serve_settings(
    flags: Mapping[str, Any], *, environ: Mapping[str, str], path: Path | None = None
) -> ServeSettings:
    """Flags that are not None, then the file, then defaults. Raises UsageError."""
    file = path or config_path(environ)
    table = read_section(SECTION, environ=environ, path=path)
    values: dict[str, Any] = {}
    kinds = {item.name: str(item.type) for item in fields(ServeSettings)}
    for name, value in table.items():
        if name not in kinds:
            message = f"config file {file}: [{SECTION}] has no {name}; known: {', '.join(kinds)}"
            raise UsageError(message)
        values[name] = _converted(name, value, kinds[name], f"config file {file}: [{SECTION}]")
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return ServeSettings(**values)
    except UsageError as err:
        message = f"[{SECTION}] {err}" if table else str(err)
        raise UsageError(message) from err


def _converted(name: str, value: object, kind: str, source: str) -> object:
    """A value of the file as its field's type."""
    is_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind == "tuple[str, ...]" and isinstance(value, list) and is_texts:
        return tuple(value)
    if kind.startswith("float") and isinstance(value, int | float) and type(value) is not bool:
        return float(value)
    plain = {"bool": bool, "int": int, "int | None": int, "str": str, "str | None": str}
    if type(value) is plain.get(kind):
        return value
    message = f"{source} {name} is {value!r}; expected {kind.removesuffix(' | None')}"
    raise UsageError(message)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        message = f"{name} is {value}; expected {low:g} to {high:g}"
        raise UsageError(message)
