"""The models of the service: opened when first asked for, given back when nobody asks any more."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.config import Settings
from autoglm.engine.tools import ToolForm, form_of
from autoglm.errors import AutoGLMError, ResourceError, UsageError
from autoglm.hardware.probe import probe
from autoglm.runtime import Runtime, open_local_engine
from autoglm.serve.errors import UnknownModelError
from autoglm.serve.layers import LayerRecorder
from autoglm.types import ModelSize

if TYPE_CHECKING:
    from autoglm.engine.base import WindowedEngine
    from autoglm.engine.native import NativeModel
    from autoglm.engine.saved_pages import SavedPages
    from autoglm.modelfile.bundle import Bundle
    from autoglm.serve.saving import PageSaver

log = logging.getLogger("autoglm.serve")
MIB = 2**20
LATEST = ":latest"  # Ollama's name for a model without a version


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is in memory."""

    name: str
    runtime: Runtime
    engine: WindowedEngine


class ServedModel:
    """One bundle and, while it is in memory, its runtime. For one event loop."""

    def __init__(
        self, name: str, path: Path, settings: Settings, saver: PageSaver | None = None
    ) -> None:
        """`saver` keeps what was read beyond the time in memory.

        Raises ModelFileError when there is no usable bundle at `path`.
        """
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
        self._saver = saver
        self._runtime: Runtime | None = None
        self._native: NativeModel | None = None
        self._pages: SavedPages | None = None
        self._is_recorded = False
        self._leaving: asyncio.Future[None] | None = None
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

    @property
    def need_bytes(self) -> int:
        """What it takes in memory at most, weights and KV cache."""
        from autoglm.engine.model import pool_tokens
        from autoglm.engine.native import held_tokens
        from autoglm.engine.precision import kv_token_bytes

        settings, config = self._settings, self.bundle.config
        held = held_tokens(self.context_tokens, window=settings.window, sink=settings.sink)
        num_tokens = pool_tokens(config, held, settings.precision)
        return self.bundle.weights_bytes + num_tokens * kv_token_bytes(config, settings.precision)

    @property
    def kv_pages(self) -> tuple[int, int]:
        """Pages of the KV cache that running requests hold, and all there are."""
        return (0, 0) if self._native is None else self._native.kv_pages

    @asynccontextmanager
    async def recorded(self, is_wanted: bool) -> AsyncIterator[LayerRecorder | None]:
        """Record where time goes, unless another request is recorded; while in use."""
        if not is_wanted or self._native is None or self._is_recorded:
            yield None
            return
        self._is_recorded = True
        recorder = LayerRecorder(self._native)
        try:
            await asyncio.to_thread(recorder.start)
            yield recorder
        finally:
            await asyncio.shield(asyncio.to_thread(recorder.stop))
            self._is_recorded = False

    async def runtime(self, make_room: Callable[[], Awaitable[bool]]) -> Runtime:
        """Load unless it is loaded; `make_room` frees memory for another try, if it can."""
        async with self._loading:
            while self._runtime is None:
                await self.left()
                runtime = Runtime(self._settings, load_engine=self._load)
                try:
                    await asyncio.to_thread(runtime.load)
                except ResourceError:
                    if not await make_room():
                        raise
                else:
                    self._runtime = runtime
                    self.loaded_at = time.time()
            return self._runtime

    def _load(self, settings: Settings) -> tuple[WindowedEngine, str, bytes]:
        model, engine = open_local_engine(settings)
        fingerprint = model.fingerprint()
        self._native = model.native
        if self._saver is not None:
            self._pages = self._saver.open(model.native.pages, engine, fingerprint)
        return engine, self.name, fingerprint

    @property
    def tool_form(self) -> ToolForm:
        """How the model writes calls."""
        return form_of(self.bundle.chat_template)

    def text_of(self, token: int) -> str:
        """The text of one token; while the model is in use."""
        return "" if self._runtime is None else self._runtime.engine().text_of([token])

    def unload(self) -> None:
        """Give the memory back soon; running requests keep what they use until they end."""
        runtime, pages = self._runtime, self._pages
        if runtime is None:
            return
        self._runtime, self._pages, self._native = None, None, None
        self._leaving = asyncio.ensure_future(asyncio.to_thread(_give_back, runtime, pages))

    async def left(self) -> None:
        """Wait until the memory is given back."""
        if self._leaving is not None:
            await asyncio.shield(self._leaving)


def _give_back(runtime: Runtime, pages: SavedPages | None) -> None:
    from autoglm._core import release_free_memory

    try:
        if pages is not None:
            pages.save()
    except AutoGLMError as err:
        log.warning("the KV cache is not saved: %s", err)
    finally:
        runtime.close()
        gc.collect()  # parts of a model refer to each other
        release_free_memory()


class Models:
    """All models of the service, the default one first."""

    def __init__(
        self,
        settings: Settings,
        paths: Sequence[Path],
        *,
        keep_alive_s: float | None,
        memory_mib: int = 0,
        saver: PageSaver | None = None,
    ) -> None:
        """Without `paths` it is the model of the settings. Raises ModelFileError, UsageError.

        `memory_mib` bounds what all models in memory take together; 0: the machine does.
        """
        self.keep_alive_s = keep_alive_s
        self.memory_mib = memory_mib
        self._saver = saver
        self._loading = asyncio.Lock()
        self._retired: list[ServedModel] = []
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
            served[name] = (
                old if old is not None and is_same else ServedModel(name, path, own, self._saver)
            )
        before, self.served = self.served, served
        for name, model in before.items():
            if served.get(name) is not model:
                model.is_retired = True
                self._retired.append(model)
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
            runtime = await self._open(model)
            yield Opened(model.name, runtime, runtime.engine())
        finally:
            model.num_active -= 1
            keep = self.keep_alive_s if keep_alive_s == -1.0 else keep_alive_s
            model.expires_at = None if keep is None else time.monotonic() + keep
            if model.num_active == 0 and (keep == 0 or model.is_retired):
                model.unload()

    def unload_idle(self) -> None:
        """Give back what nobody asked for in its time, and what is no longer served."""
        now = time.monotonic()
        for model in self.served.values():
            if model.is_idle and model.expires_at is not None and model.expires_at <= now:
                model.unload()
        for model in self._retired:
            if model.is_idle:
                model.unload()
        self._retired = [model for model in self._retired if model.num_active > 0]

    async def close(self) -> None:
        """Give everything back."""
        models = [*self.served.values(), *self._retired]
        for model in models:
            model.unload()
        for model in models:
            await model.left()

    async def _open(self, model: ServedModel) -> Runtime:
        """Load it unless it is loaded; one at a time, so that the bound is kept."""
        if model.is_loaded:
            return await model.runtime(self._make_room)
        async with self._loading:
            await self._fit(model)
            return await model.runtime(self._make_room)

    async def _fit(self, model: ServedModel) -> None:
        """Keep within the bound of memory. Raises ResourceError."""
        if not self.memory_mib or model.is_loaded:
            return
        limit = self.memory_mib * MIB
        if model.need_bytes > limit:
            message = (
                f"model {model.name} needs {model.need_bytes // MIB} MiB; memory_mib is "
                f"{self.memory_mib}"
            )
            raise ResourceError(message)
        while self._used_bytes() + model.need_bytes > limit:
            if not await self._make_room():
                message = f"other models are in use and memory_mib is {self.memory_mib}"
                raise ResourceError(message)

    def _used_bytes(self) -> int:
        models = [*self.served.values(), *self._retired]
        return sum(model.need_bytes for model in models if model.is_loaded)

    async def _make_room(self) -> bool:
        """Unload the model that was unused longest; False when all are used."""
        idle = [model for model in self.served.values() if model.is_idle]
        if not idle:
            return False
        unused = min(idle, key=lambda model: model.expires_at or float("inf"))
        unused.unload()
        await unused.left()
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
