"""Settings that change while the service runs: a file that is good replaces the one before.

Running requests keep what they began with. A file that cannot be used is refused as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoglm.config import Settings
from autoglm.errors import AutoGLMError
from autoglm.serve.service import Service
from autoglm.serve.settings import ServeSettings

LoadBoth = Callable[[], tuple[Settings, ServeSettings]]
log = logging.getLogger("autoglm.serve")


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload did: the settings that count now, and those that need a new start."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


class Reloader:
    """Watches the configuration file of a service."""

    def __init__(self, service: Service, load: LoadBoth, file: Path) -> None:
        """`load` reads flags, environment and file again. Raises nothing."""
        self._service = service
        self._load = load
        self._file = file
        self._seen = _stamp(file)

    def look(self) -> None:
        """Reload when the file has changed; a bad one is logged and the old settings stay."""
        stamp = _stamp(self._file)
        if stamp == self._seen:
            return
        try:
            change = self.reload()
        except AutoGLMError as err:
            log.warning("config refused, the old one stays: %s", err)
            return
        if change.needs_restart:
            log.warning("needs a new start: %s", ", ".join(change.needs_restart))

    def reload(self) -> Change:
        """Read everything again and use it. Raises what the settings or the models raise."""
        self._seen = _stamp(self._file)
        settings, new = self._load()
        service = self._service
        old = service.settings
        merged = old.with_live(new)
        paths = [Path(path) for path in merged.models]
        # First what can fail: a model that cannot be opened leaves everything as it was.
        has_models_changed = service.models.replace(settings, paths)
        service.models.keep_alive_s = None if merged.keep_alive_s < 0 else merged.keep_alive_s
        service.models.memory_mib = merged.memory_mib
        service.admission.resize(merged.slots, merged.queue)
        service.settings = merged
        set_log_level(merged)
        applied = old.changed(merged)
        if has_models_changed and "models" not in applied:
            applied.append("models")
        log.info("config read again: %s", ", ".join(applied) or "nothing changed")
        return Change(tuple(applied), tuple(merged.changed(new)))


def set_log_level(serve: ServeSettings) -> None:
    """Requests are logged, or errors only."""
    log.setLevel(logging.INFO if serve.log == "requests" else logging.ERROR)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
