"""Settings: flag, then `AUTOGLM_*` variable, then config file, then default.

The file is TOML, at `$AUTOGLM_CONFIG` or `~/.config/autoglm/config.toml`; its keys are the field
names of `Settings`. An unknown key or a value of the wrong kind is an error that names it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from autoglm.errors import UsageError

Value = str | int | bool | None

FAST, EXACT = "fast", "exact"
PRECISIONS = (FAST, EXACT)

MAX_THREADS = 256
MAX_FILE_BYTES = 2**20
# Tables of the file that belong to one command; who owns a table checks it.
SECTIONS = frozenset({"serve"})
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a user may set.

    `model` None is the embedded model. `threads` 0 is the number of physical cores.
    `context_tokens` 0 is the model's own window, up to `DEFAULT_MAX_CONTEXT`. `cache_mib` bounds
    the answer cache (0 turns it off), `keep_answers` keeps it in the vault. `max_text_mib` bounds a
    text input. `window` above 0 limits attention to the first `sink` and latest `window` tokens.
    `draft_model` is a smaller bundle with the same tokenizer that makes answers faster.
    `expert_memory_mib` bounds the experts in memory of a mixture model, the others are read when
    needed; 0 maps all of them.
    `precision` "fast" rounds activations and KV cache to 8 bits, "exact" to 16. `reader` False
    leaves every request to the model, also those that the bundle's reader could answer.

    With `offline` false the cloud is asked, as far as the privacy policy (`policy`, or that of the
    package) lets a request leave; an answer may take `cloud_timeout_s`. Above 0, `cloud_hedge_ms`
    is how long the device waits for the cloud's first token before it tries, too.
    """

    model: str | None = None
    offline: bool = True
    threads: int = 0
    context_tokens: int = 0
    max_tokens: int = 512
    cache_mib: int = 4
    max_text_mib: int = 16
    window: int = 0
    sink: int = 64
    draft_model: str | None = None
    expert_memory_mib: int = 0
    precision: str = FAST
    policy: str | None = None
    cloud_timeout_s: int = 60
    cloud_hedge_ms: int = 0
    keep_answers: bool = False
    reader: bool = True


_RANGES = {
    "threads": (0, MAX_THREADS),
    "context_tokens": (0, 2**24),
    "max_tokens": (1, 2**24),
    "cache_mib": (0, 4096),
    "max_text_mib": (1, 1024),
    "window": (0, 2**24),
    "sink": (0, 2**20),
    "expert_memory_mib": (0, 2**24),
    "cloud_timeout_s": (1, 3_600),
    "cloud_hedge_ms": (0, 3_600_000),
}


@dataclass(frozen=True, slots=True)
class _Sources:
    flags: Mapping[str, Value]
    environ: Mapping[str, str]
    in_file: Mapping[str, object]
    file: Path

    def find(self, name: str) -> tuple[object, str]:
        """The value that counts and where it stands; None when nobody gave one."""
        variable = f"AUTOGLM_{name.upper()}"
        if name in self.flags:
            return self.flags[name], "argument"
        if self.environ.get(variable):
            return self.environ[variable], variable
        return self.in_file.get(name), f"config file {self.file}"

    def integer(self, name: str, default: int) -> int:
        value, source = self.find(name)
        if value is None:
            return default
        low, high = _RANGES[name]
        number = value
        if isinstance(value, str):
            try:
                number = int(value)
            except ValueError:
                number = None
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            message = f"{source}: {name} is {value!r}; expected a whole number from {low} to {high}"
            raise UsageError(message)
        return number

    def boolean(self, name: str, default: bool) -> bool:
        value, source = self.find(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        message = f"{source}: {name} is {value!r}; expected true or false"
        raise UsageError(message)

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value, source = self.find(name)
        if value is None:
            return default
        if isinstance(value, str) and value in choices:
            return value
        message = f"{source}: {name} is {value!r}; expected {' or '.join(choices)}"
        raise UsageError(message)

    def text(self, name: str, default: str | None) -> str | None:
        value, source = self.find(name)
        if value is None:
            return default
        if isinstance(value, str) and value:
            return value
        message = f"{source}: {name} is {value!r}; expected a non-empty text"
        raise UsageError(message)


def config_path(environ: Mapping[str, str]) -> Path:
    """Where the config file is looked for."""
    if named := environ.get("AUTOGLM_CONFIG"):
        return Path(named)
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config"
    return Path(base) / "autoglm" / "config.toml"


def _read_file(path: Path, *, is_required: bool) -> dict[str, object]:
    if not is_required and not path.exists():
        return {}
    import tomllib

    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as err:
        message = f"config file {path}: {err.strerror or err}"
        raise UsageError(message) from err
    if len(content) > MAX_FILE_BYTES:
        message = f"config file {path}: larger than {MAX_FILE_BYTES} bytes"
        raise UsageError(message)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except ValueError as err:
        message = f"config file {path}: not TOML: {err}"
        raise UsageError(message) from err


def read_section(
    name: str, *, environ: Mapping[str, str], path: Path | None = None
) -> Mapping[str, object]:
    """One of SECTIONS as it stands in the file; empty when there is none. Raises UsageError."""
    file = path or config_path(environ)
    table = _read_file(file, is_required=path is None and "AUTOGLM_CONFIG" in environ).get(name, {})
    if not isinstance(table, dict):
        message = f"config file {file}: {name} is {table!r}; expected a table [{name}]"
        raise UsageError(message)
    return table


def _reject_unknown(keys: Mapping[str, object], source: str) -> None:
    known = [field.name for field in fields(Settings)]
    unknown = sorted(set(keys) - set(known))
    if unknown:
        message = f"{source}: unknown setting {', '.join(unknown)}; known: {', '.join(known)}"
        raise UsageError(message)


def load_settings(
    flags: Mapping[str, Value] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    path: Path | None = None,
) -> Settings:
    """Merge the four sources; a flag that is None counts as not given.

    `path` replaces the usual place of the config file, which may be missing. Raises UsageError.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    _reject_unknown(flags, "argument")

    file = path or config_path(environ)
    whole = _read_file(file, is_required=path is None and "AUTOGLM_CONFIG" in environ)
    in_file = {name: value for name, value in whole.items() if name not in SECTIONS}
    _reject_unknown(in_file, f"config file {file}")

    sources = _Sources(flags, environ, in_file, file)
    default = Settings()
    return Settings(
        model=sources.text("model", default.model),
        offline=sources.boolean("offline", default.offline),
        threads=sources.integer("threads", default.threads),
        context_tokens=sources.integer("context_tokens", default.context_tokens),
        max_tokens=sources.integer("max_tokens", default.max_tokens),
        cache_mib=sources.integer("cache_mib", default.cache_mib),
        max_text_mib=sources.integer("max_text_mib", default.max_text_mib),
        window=sources.integer("window", default.window),
        sink=sources.integer("sink", default.sink),
        draft_model=sources.text("draft_model", default.draft_model),
        expert_memory_mib=sources.integer("expert_memory_mib", default.expert_memory_mib),
        precision=sources.choice("precision", default.precision, PRECISIONS),
        policy=sources.text("policy", default.policy),
        cloud_timeout_s=sources.integer("cloud_timeout_s", default.cloud_timeout_s),
        cloud_hedge_ms=sources.integer("cloud_hedge_ms", default.cloud_hedge_ms),
        keep_answers=sources.boolean("keep_answers", default.keep_answers),
        reader=sources.boolean("reader", default.reader),
    )
