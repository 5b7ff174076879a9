"""The models of the service: opened when first asked for, given back when nobody asks any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.config import Settings
from autoglm.engine.tools import ToolForm, form_of
from autoglm.errors import ResourceError, UsageError
from autoglm.hardware.probe import probe
from autoglm.runtime import Runtime
from autoglm.serve.errors import UnknownModelError
from autoglm.types import ModelSize

if TYPE_CHECKING:
    from autoglm.engine.base import WindowedEngine
    from autoglm.modelfile.bundle import Bundle

LATEST = ":latest"  # Ollama's name for a model without a version


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is in memory."""

    name: str
    runtime: Runtime
    engine: WindowedEngine


class ServedModel:
    """One bundle and, while it is in memory, its runtime. For one event loop."""

    def __init__(self, name: str, path: Path, settings: Settings) -> None:
        """Raises ModelFileError when there is no usable bundle at `path`."""
        from autoglm.modelfile.bundle import open_bundle

        self.name = name
        self.path = path
        self.bundle: Bundle = open_bundle(path)
        self.created = int(path.stat().st_mtime)
        self.num_active = 0
        self.expires_at: float | None = None  # None: stays
        self.loaded_at = 0.0
        self.is_retired = False
        self._settings = settings
        self._runtime: Runtime | None = None
        self._loading = asyncio.Lock()

    def is_same(self, path: Path, settings: Settings) -> bool:
        """Whether it was made from these."""
        return (self.path, self._settings) == (path, settings)

    @property
    def context_tokens(self) -> int:
        """The window that requests get."""
        from autoglm.engine.model import DEFAULT_MAX_CONTEXT

        return self._settings.context_tokens or min(self.bundle.max_position, DEFAULT_MAX_CONTEXT)

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._runtime is not None

    @property
    def is_idle(self) -> bool:
        """Whether it is in memory and nobody uses it."""
        return self.is_loaded and self.num_active == 0

    async def runtime(self, make_room: Callable[[], bool]) -> Runtime:
        """Load unless it is loaded; `make_room` frees memory for another try, if it can."""
        async with self._loading:
            while self._runtime is None:
                runtime = Runtime(self._settings)
                try:
                    await asyncio.to_thread(runtime.load)
                except ResourceError:
                    if not make_room():
                        raise
                else:
                    self._runtime = runtime
                    self.loaded_at = time.time()
            return self._runtime

    @property
    def tool_form(self) -> ToolForm:
        """How the model writes calls."""
        return form_of(self.bundle.chat_template)

    def text_of(self, token: int) -> str:
        """The text of one token; while the model is in use."""
        return "" if self._runtime is None else self._runtime.engine().text_of([token])

    def unload(self) -> None:
        """Give the memory back; running requests keep what they use until they end."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None
            from autoglm._core import release_free_memory

            release_free_memory()


class Models:
    """All models of the service, the default one first."""

    def __init__(
        self, settings: Settings, paths: Sequence[Path], *, keep_alive_s: float | None
    ) -> None:
        """Without `paths` it is the model of the settings. Raises ModelFileError, UsageError."""
        self.keep_alive_s = keep_alive_s
        self.threads = settings.threads or probe().physical_cores
        self.served: dict[str, ServedModel] = {}
        self.replace(settings, paths)

    def replace(self, settings: Settings, paths: Sequence[Path]) -> bool:
        """Serve these models from now on; returns whether anything changed.

        Models that stay keep what they have in memory, others end with their last request. Raises
        ModelFileError and UsageError, and then changes nothing.
        """
        served: dict[str, ServedModel] = {}
        for name, path in _named(settings, paths):
            if name in served:
                message = f"two models are called {name!r}; rename the directory of one"
                raise UsageError(message)
            own = replace(settings, model=str(path) if paths or settings.model else None)
            old = self.served.get(name)
            is_same = old is not None and old.is_same(path, own)
            served[name] = old if old is not None and is_same else ServedModel(name, path, own)
        before, self.served = self.served, served
        for name, model in before.items():
            if served.get(name) is not model:
                model.is_retired = True
                if model.num_active == 0:
                    model.unload()
        return list(before.values()) != list(served.values())

    def find(self, name: str | None) -> ServedModel:
        """The model of this name, the default one for None. Raises UnknownModelError."""
        if not name:
            return next(iter(self.served.values()))
        model = self.served.get(name) or self.served.get(name.removesuffix(LATEST))
        if model is None:
            raise UnknownModelError(name, list(self.served))
        return model

    @asynccontextmanager
    async def use(
        self, model: ServedModel, keep_alive_s: float | None = -1.0
    ) -> AsyncIterator[Opened]:
        """Hold a model in memory; afterwards it stays `keep_alive_s` (None: for ever)."""
        model.num_active += 1
        try:
            runtime = await model.runtime(self._make_room)
            yield Opened(model.name, runtime, runtime.engine())
        finally:
            model.num_active -= 1
            keep = self.keep_alive_s if keep_alive_s == -1.0 else keep_alive_s
            model.expires_at = None if keep is None else time.monotonic() + keep
            if model.num_active == 0 and (keep == 0 or model.is_retired):
                model.unload()

    def unload_idle(self) -> None:
        """Give back what nobody asked for in its time."""
        now = time.monotonic()
        for model in self.served.values():
            if model.is_idle and model.expires_at is not None and model.expires_at <= now:
                model.unload()

    def close(self) -> None:
        """Give everything back."""
        for model in self.served.values():
            model.unload()

    def _make_room(self) -> bool:
        """Unload the model that was unused longest; False when all are used."""
        idle = [model for model in self.served.values() if model.is_idle]
        if not idle:
            return False
        min(idle, key=lambda model: model.expires_at or float("inf")).unload()
        return True


def _named(settings: Settings, paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Names and directories; a model is called like its directory."""
    from autoglm.engine.model import embedded_model

    if paths:
        return [(path.resolve().name, path) for path in paths]
    if settings.model:
        path = Path(settings.model)
        return [(path.resolve().name, path)]
    return [(ModelSize.LITE.value, embedded_model())]
