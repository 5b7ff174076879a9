"""Builds the parts from `Settings` and walks a request through them; itself an Engine.

The model is loaded by the first request. Safe to use from several threads.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoglm.engine.answer_cache import Answer, AnswerCache
from autoglm.engine.extract import extracted
from autoglm.engine.long_text import stream_parts, text_parts
from autoglm.errors import OutputFormatError, UsageError, require
from autoglm.types import Chunk, ModelSize, Request, Result, Route, Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoglm.config import Settings
    from autoglm.engine.base import Engine, WindowedEngine
    from autoglm.engine.failover import Device
    from autoglm.engine.local import LocalEngine
    from autoglm.engine.model import LoadedModel
    from autoglm.lite.reader.reader import Reader

    LoadEngine = Callable[[Settings], tuple[WindowedEngine, str, bytes]]
    LoadReader = Callable[[Settings], Reader | None]
    Connect = Callable[[Settings, Device], Engine]

MIB = 2**20


def open_local_engine(settings: Settings) -> tuple[LoadedModel, LocalEngine]:
    """The model of the settings on this device, and the engine over it."""
    from autoglm.engine.model import load_engine

    return load_engine(
        settings.model,
        max_tokens=settings.max_tokens,
        threads=settings.threads,
        context_tokens=settings.context_tokens,
        window=settings.window,
        sink=settings.sink,
        draft_model=settings.draft_model,
        expert_memory_mib=settings.expert_memory_mib,
        precision=settings.precision,
    )


def load_local_engine(settings: Settings) -> tuple[WindowedEngine, str, bytes]:
    """The engine on this device, its model's name, and the fingerprint of the model."""
    model, engine = open_local_engine(settings)
    name = model.bundle.path.resolve().name if settings.model else ModelSize.LITE.value
    return engine, name, model.fingerprint()


def load_local_reader(settings: Settings) -> Reader | None:
    """The reader in the model's bundle, if it has one."""
    from autoglm.engine.model import embedded_model
    from autoglm.lite.reader.reader import Reader

    return Reader.of_bundle(Path(settings.model) if settings.model else embedded_model())


def connect(settings: Settings, device: Device) -> Engine:
    """The cloud with this device behind it. Raises UsageError unless the device is enrolled."""
    require("connectrpc", extra="sync")
    from autoglm.engine.online import online_engine

    name = Path(settings.model).resolve().name if settings.model else ModelSize.LITE.value
    try:
        return online_engine(settings, device, device_model=name, environ=os.environ)
    except UsageError as err:
        message = f"offline is false: {err}"
        raise UsageError(message) from err


def open_answers(settings: Settings) -> AnswerCache:
    """The answer cache of the settings. Raises what opening the vault raises."""
    max_bytes = settings.cache_mib * MIB
    if not settings.keep_answers:
        return AnswerCache(max_bytes)
    require("cryptography", extra="vault")
    from autoglm.engine.kept_answers import KeptAnswers
    from autoglm.privacy.vault.opening import open_vault
    from autoglm.privacy.vault.places import VaultHome

    vault = open_vault(VaultHome.find(os.environ), _no_passphrase, accept_rollback=False)
    try:
        return KeptAnswers(max_bytes, vault)
    except BaseException:
        vault.close()
        raise


def _no_passphrase() -> str:
    message = "keep_answers needs a vault without passphrase: autoglm vault rotate --key file"
    raise UsageError(message)


class Runtime:
    """One model, one answer cache, and the path of a request through them."""

    def __init__(
        self,
        settings: Settings,
        *,
        load_engine: LoadEngine = load_local_engine,
        load_reader: LoadReader = load_local_reader,
        connect: Connect = connect,
    ) -> None:
        """`load_engine` is called by the first request that this device answers.

        `load_reader` is called by the first that it may extract.
        """
        self._settings = settings
        self._online = None if settings.offline else connect(settings, _Device(self))
        self._load_engine = load_engine
        self._load_reader = load_reader
        self._reader: Reader | None = None
        self._has_looked_for_reader = False
        self._loaded: tuple[WindowedEngine, str, bytes] | None = None
        self._is_closed = False
        self._loading = threading.Lock()
        self._answers: AnswerCache | None = None

    def load(self) -> float:
        """Load the model unless it is loaded; returns the milliseconds this call spent on it."""
        start = time.perf_counter()
        with self._loading:
            if self._is_closed:
                message = "the client is closed; make another one"
                raise UsageError(message)
            if self._loaded is not None:
                return 0.0
            self._loaded = self._load_engine(self._settings)
        return _ms_since(start)

    def engine(self) -> WindowedEngine:
        """The engine itself, for token ids and scores; loads it. Raises what loading raises."""
        self.load()
        return self._model()[0]

    def _model(self) -> tuple[WindowedEngine, str, bytes]:
        loaded = self._loaded
        if loaded is None:
            message = "the client was closed while the request began"
            raise UsageError(message)
        return loaded

    def _cache(self) -> AnswerCache:
        """The answers, which are opened by the first request."""
        with self._loading:
            if self._answers is None:
                self._answers = open_answers(self._settings)
            return self._answers

    def close(self) -> None:
        """Give the model back once running requests have ended; later requests are errors."""
        with self._loading:
            self._is_closed = True
            self._loaded = self._reader = None
            if self._answers is not None:
                self._answers.close()

    def stream(self, request: Request) -> Generator[Chunk, None, None]:
        """Yield the answer; the last chunk carries the result.

        Raises what loading raises, ContextOverflowError, ResourceError, and OutputFormatError
        when a schema was asked for and the answer is not JSON.
        """
        if self._online is not None:
            return self._ask(self._online, request)
        return self.on_device(request)

    def _ask(self, online: Engine, request: Request) -> Generator[Chunk, None, None]:
        """The answer of the cloud or, where that is not to be had, of this device."""
        for chunk in online.stream(request):
            result = chunk.result
            if result is not None and request.schema is not None and result.data is None:
                is_complete = result.finish_reason != "cancelled"
                data = _parse_json(result.text) if is_complete else None
                yield replace(chunk, result=replace(result, data=data))
            else:
                yield chunk

    def on_device(self, request: Request) -> Generator[Chunk, None, None]:
        """The answer of this device, whatever the settings say."""
        return self._stream(request, time.perf_counter())

    def _stream(self, request: Request, start: float) -> Generator[Chunk, None, None]:
        load_ms = self.load()
        engine, name, fingerprint = self._model()
        answers = self._cache()
        key = answers.key(
            request,
            model=fingerprint,
            context_tokens=engine.context_tokens,
            max_tokens=engine.answer_tokens(request),
        )
        may_repeat = request.sampling.is_deterministic and request.sampling.num_logprobs is None
        if may_repeat and (answer := answers.get(key)):
            route = self._route(name, answer, is_cached=True)
            timings = Timings(load_ms, _ms_since(start), _ms_since(start))
            yield _last_chunk(request, answer, answer.text, route, timings)
            return
        found = self._extract(request)
        if found is not None:
            answer = extracted(engine, request, found)
            answers.put(key, answer)
            timings = Timings(load_ms, _ms_since(start), _ms_since(start))
            yield _last_chunk(request, answer, answer.text, self._route(name, answer), timings)
            return
        parts = text_parts(engine, request)
        chunks = stream_parts(engine, request, parts) if len(parts) > 1 else engine.stream(request)
        text, first_token_ms = "", 0.0
        for chunk in chunks:
            if not first_token_ms and (chunk.text or chunk.finish_reason or len(parts) <= 1):
                first_token_ms = _ms_since(start)
            text += chunk.text
            if chunk.finish_reason is None:
                yield chunk
                continue
            answer = Answer(
                text, chunk.finish_reason, chunk.usage or Usage(0, 0), max(1, len(parts))
            )
            if may_repeat and answer.finish_reason != "cancelled":
                answers.put(key, answer)
            route = self._route(name, answer)
            timings = Timings(load_ms, first_token_ms, _ms_since(start))
            yield _last_chunk(request, answer, chunk.text, route, timings)

    def _extract(self, request: Request) -> str | None:
        """What the bundle's reader finds in the text; None leaves the request to the model."""
        if not self._settings.reader:
            return None
        from autoglm.lite.reader.requests import recognise

        asked = recognise(request)
        if asked is None:
            return None
        with self._loading:
            if not self._has_looked_for_reader:
                self._reader = self._load_reader(self._settings)
                self._has_looked_for_reader = True
            reader = self._reader
        return None if reader is None else reader.answer(asked)

    def _route(self, model: str, answer: Answer, *, is_cached: bool = False) -> Route:
        reason = "offline" if self._settings.offline else "answered on this device"
        num_parts = answer.num_parts
        if answer.is_extracted:
            reason += "; extracted from the text"
        if num_parts > 1:
            reason += (
                f"; the text is longer than the context window and was read in {num_parts} parts"
            )
        if is_cached:
            reason += "; answered before"
        return Route(
            "local",
            model,
            reason,
            cached=is_cached,
            num_parts=num_parts,
            is_extracted=answer.is_extracted,
        )


class _Device:
    """This device as the engine behind the cloud: the model is loaded when it is needed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def stream(self, request: Request) -> Generator[Chunk, None, None]:
        """The answer of this device."""
        return self._runtime.on_device(request)

    def answer_tokens(self, request: Request) -> int:
        """The most tokens the answer may have."""
        return self._runtime.engine().answer_tokens(request)

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids of the whole prompt."""
        return self._runtime.engine().prompt_ids(request)

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a plain text."""
        return self._runtime.engine().token_ids(text)


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def _last_chunk(
    request: Request, answer: Answer, text: str, route: Route, timings: Timings
) -> Chunk:
    """The chunk with the result; `text` is what the stream has not given out yet."""
    is_complete = answer.finish_reason != "cancelled"
    data = _parse_json(answer.text) if request.schema is not None and is_complete else None
    result = Result(answer.text, data, route, answer.usage, timings, answer.finish_reason)
    return Chunk(text, finish_reason=answer.finish_reason, usage=answer.usage, result=result)


def _parse_json(text: str) -> Any:
    """The JSON value in an answer, which models like to wrap in a Markdown fence."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```"):
        body = body.removeprefix("```").removesuffix("```").removeprefix("json")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as err:
        message = "the answer is not JSON; a larger model or a simpler schema may help"
        raise OutputFormatError(message) from err
