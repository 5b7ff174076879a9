"""AutoGLMClient and AsyncAutoGLMClient: two faces of one Runtime, with equal signatures.

Clients may be used from several threads or tasks at once; their requests take turns on the model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack

from autoglm.config import load_settings
from autoglm.errors import AutoGLMError, InvalidRequestError, UsageError
from autoglm.runtime import Runtime
from autoglm.types import (
    Cancellation,
    Chunk,
    Message,
    ModelSize,
    Request,
    Result,
    SamplingParams,
    check_type,
)

ApplicationContext = str | os.PathLike[str]


class SamplingOptions(TypedDict, total=False):
    """Further options of `generate` and `stream`, see `SamplingParams`."""

    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    ignore_eos: bool


class _Client:
    """What both clients have: the runtime and the requests in progress."""

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        offline: bool | None = None,
        model_size: ModelSize = ModelSize.LITE,
        context: ApplicationContext | None = None,
        threads: int | None = None,
        context_tokens: int | None = None,
        max_tokens: int | None = None,
        cache_mib: int | None = None,
        window: int | None = None,
        draft_model: str | os.PathLike[str] | None = None,
        expert_memory_mib: int | None = None,
        precision: str | None = None,
    ) -> None:
        """Options left out come from `AUTOGLM_*`, then the config file, then `Settings`.

        `model` is a bundle's directory, None the embedded model of `model_size`. `context` is the
        application's directory, whose `config.toml` replaces the user's. Raises UsageError.
        """
        try:
            ModelSize(model_size)
        except ValueError as err:
            message = f"model_size is {model_size!r}; expected ModelSize.LITE"
            raise UsageError(message) from err
        flags = {
            "model": _path_text("model", model),
            "offline": offline,
            "threads": threads,
            "context_tokens": context_tokens,
            "max_tokens": max_tokens,
            "cache_mib": cache_mib,
            "window": window,
            "draft_model": _path_text("draft_model", draft_model),
            "expert_memory_mib": expert_memory_mib,
            "precision": precision,
        }
        directory = _path_text("context", context)
        path = None if directory is None else Path(directory) / "config.toml"
        self._runtime = Runtime(load_settings(flags, path=path))
        self._running: set[Cancellation] = set()
        self._lock = threading.Lock()

    @classmethod
    def builder(cls) -> ClientBuilder[Self]:
        """A builder in the manner of the mobile SDK."""
        return ClientBuilder(cls)

    def cancel(self) -> None:
        """End the running requests; their answers so far have finish_reason "cancelled"."""
        with self._lock:
            running = tuple(self._running)
        for cancellation in running:
            cancellation.cancel()

    def _stream(self, request: Request) -> Generator[Chunk, None, None]:
        with self._tracked(request), closing(self._runtime.stream(request)) as chunks:
            yield from chunks

    @contextmanager
    def _tracked(self, request: Request) -> Iterator[None]:
        with self._lock:
            self._running.add(request.cancellation)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(request.cancellation)


class AutoGLMClient(_Client):
    """Answers prompts; the first request loads the model."""

    def generate(
        self,
        prompt: str,
        text: str | None = None,
        *,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Result:
        """Answer `prompt`, about `text` if one is given, after the turns in `history`.

        A text longer than the context window is read in parts, and `Result.route` says so. With
        a JSON `schema` the parsed answer is in `Result.data`. Raises InvalidRequestError,
        ContextOverflowError, OutputFormatError, ModelFileError and its kinds, ResourceError.
        """
        request = _request(
            prompt, text, history, max_tokens, temperature, seed, stop, schema, sampling
        )
        return _last_result(self._stream(request))

    def stream(
        self,
        prompt: str,
        text: str | None = None,
        *,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generator[Chunk, None, None]:
        """As `generate`, in pieces; the last chunk carries the result."""
        return self._stream(
            _request(prompt, text, history, max_tokens, temperature, seed, stop, schema, sampling)
        )

    def close(self) -> None:
        """Cancel what runs and give the model back."""
        self.cancel()
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncAutoGLMClient(_Client):
    """AutoGLMClient for asyncio: the work runs in threads; cancelling a task ends its request."""

    async def generate(
        self,
        prompt: str,
        text: str | None = None,
        *,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Result:
        """As AutoGLMClient.generate."""
        request = _request(
            prompt, text, history, max_tokens, temperature, seed, stop, schema, sampling
        )
        return await _in_thread(lambda: _last_result(self._stream(request)), request.cancellation)

    def stream(
        self,
        prompt: str,
        text: str | None = None,
        *,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncGenerator[Chunk, None]:
        """As AutoGLMClient.stream; close the iterator or cancel the task to end early."""
        return self._stream_async(
            _request(prompt, text, history, max_tokens, temperature, seed, stop, schema, sampling)
        )

    async def _stream_async(self, request: Request) -> AsyncGenerator[Chunk, None]:
        chunks = self._stream(request)
        try:
            while chunk := await _in_thread(lambda: next(chunks, None), request.cancellation):
                yield chunk
        finally:
            chunks.close()

    async def close(self) -> None:
        """Cancel what runs and give the model back."""
        self.cancel()
        self._runtime.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


ClientT = TypeVar("ClientT", bound=_Client)


class ClientBuilder(Generic[ClientT]):
    """Collects a client's options, as the mobile SDK does."""

    def __init__(self, client: type[ClientT]) -> None:
        self._client = client
        self._model: str | os.PathLike[str] | None = None
        self._offline: bool | None = None
        self._model_size = ModelSize.LITE
        self._context: ApplicationContext | None = None
        self._threads: int | None = None
        self._window: int | None = None
        self._draft_model: str | os.PathLike[str] | None = None
        self._precision: str | None = None

    def model(self, path: str | os.PathLike[str]) -> Self:
        """Use the bundle in this directory."""
        self._model = path
        return self

    def offline(self, is_offline: bool) -> Self:
        """Whether requests must stay on the device."""
        self._offline = is_offline
        return self

    def model_size(self, size: ModelSize) -> Self:
        """Use the embedded model of this size."""
        self._model_size = size
        return self

    def context(self, directory: ApplicationContext | None) -> Self:
        """The application's directory, whose `config.toml` replaces the user's."""
        self._context = directory
        return self

    def threads(self, number: int) -> Self:
        """Use this many threads."""
        self._threads = number
        return self

    def window(self, tokens: int) -> Self:
        """Attend to the beginning and this many latest tokens only."""
        self._window = tokens
        return self

    def draft_model(self, path: str | os.PathLike[str]) -> Self:
        """Let the smaller bundle in this directory draft for the model: faster, same answers."""
        self._draft_model = path
        return self

    def precision(self, name: str) -> Self:
        """Compute "fast", with 8 bits, or "exact", with 16."""
        self._precision = name
        return self

    def build(self) -> ClientT:
        """The client. Raises UsageError."""
        return self._client(
            self._model,
            offline=self._offline,
            model_size=self._model_size,
            context=self._context,
            threads=self._threads,
            window=self._window,
            draft_model=self._draft_model,
            precision=self._precision,
        )


def _path_text(name: str, path: str | os.PathLike[str] | None) -> str | None:
    try:
        return None if path is None else os.fspath(path)
    except TypeError as err:
        message = f"{name} is a {type(path).__name__}; expected the path of a directory"
        raise UsageError(message) from err


def _request(
    prompt: str,
    text: str | None,
    history: Sequence[Message],
    max_tokens: int | None,
    temperature: float,
    seed: int | None,
    stop: str | Sequence[str],
    schema: Mapping[str, Any] | None,
    sampling: SamplingOptions,
) -> Request:
    check_type("prompt", prompt, str, "a string")
    check_type("history", history, Sequence, "a list of Message")
    check_type("stop", stop, Sequence, "a string or a list of strings")
    if isinstance(text, str) and not text.strip():
        message = "the text is empty; give some, or leave it out"
        raise InvalidRequestError(message)
    return Request(
        messages=(*history, Message("user", prompt)),
        text=text,
        max_tokens=max_tokens,
        sampling=SamplingParams(temperature=temperature, seed=seed, **sampling),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        schema=schema,
    )


def _last_result(chunks: Iterable[Chunk]) -> Result:
    *_, last = chunks
    if last.result is None:
        message = "the engine ended without a result"
        raise AutoGLMError(message)
    return last.result


T = TypeVar("T")


async def _in_thread(call: Callable[[], T], cancellation: Cancellation) -> T:
    """Run `call` in a thread; when the task is cancelled, cancel the call and wait for its end."""
    import asyncio

    work = asyncio.ensure_future(asyncio.to_thread(call))
    is_cancelled = False
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            is_cancelled = True
            cancellation.cancel()
    if is_cancelled:
        work.exception()
        raise asyncio.CancelledError
    return work.result()
