"""What all routes share: models, slots, threads, counters, settings; and how work runs on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from autoglm.errors import GrammarError
from autoglm.serve.admission import Admission
from autoglm.serve.answers import Deadline, Piece, in_thread, pieces
from autoglm.serve.errors import FieldError
from autoglm.serve.layers import MOST_PIECES, LayerTimes
from autoglm.serve.metrics import Metrics
from autoglm.serve.models import Models, Opened, ServedModel
from autoglm.serve.settings import MAX_SLOTS, ServeSettings
from autoglm.types import Cancellation, Request, SamplingParams

T = TypeVar("T")
DEFAULT_KEEP = -1.0  # the service's own keep_alive_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A request that is understood: which model, how long, how urgent, and what to ask it."""

    model: ServedModel
    requests: Callable[[Opened], list[Request]]
    num_answers: int = 1
    priority: int = 0
    timeout_s: float | None = None
    keep_alive_s: float | None = DEFAULT_KEEP
    has_layers: bool = False  # record where its time goes
    form_field: str = "tools"  # what brought the grammar, if there is one


@dataclass(slots=True)
class LastRequest:
    """Figures of the request that ended last, for the console."""

    model: str = ""
    reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_ms: float = 0.0
    load_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    layers: LayerTimes | None = None


@dataclass(slots=True)
class Service:
    """The parts of one running service. For one event loop."""

    settings: ServeSettings
    models: Models
    admission: Admission
    metrics: Metrics = field(default_factory=Metrics)
    last: LastRequest = field(default_factory=LastRequest)
    started_at: float = field(default_factory=time.time)
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_SLOTS, thread_name_prefix="autoglm-answer")
    )

    def temperature(self, opened: Opened) -> float:
        """For requests that give none: the service's, else the model's."""
        own = self.settings.temperature
        return opened.engine.temperature if own is None else own

    def sampling(self, wished: SamplingParams) -> SamplingParams:
        """With the service's own settings where a request says nothing."""
        own = self.settings
        names = ("top_p", "top_k", "min_p", "repetition_penalty")
        missing = {name: getattr(own, name) for name in names if getattr(wished, name) is None}
        return replace(wished, **missing)

    async def pieces(self, work: Work) -> AsyncGenerator[Piece, None]:
        """Wait for a slot, load the model, and yield the answers."""
        start = time.perf_counter()
        deadline = Deadline(work.timeout_s or self.settings.timeout_s)
        slot = self.admission.slot(
            weight=work.num_answers, priority=work.priority, timeout_s=deadline.left_s
        )
        async with slot:
            queue_ms = _ms_since(start)
            async with self.models.use(work.model, work.keep_alive_s) as opened:
                load_ms = _ms_since(start) - queue_ms
                last = LastRequest(model=opened.name, queue_ms=queue_ms, load_ms=load_ms)
                requests = work.requests(opened)
                stream = pieces(opened.runtime, requests, deadline, self.threads)
                async with aclosing(stream), work.model.recorded(work.has_layers) as recorder:
                    measured = self._measured(_naming(stream, work.form_field), start, last)
                    async for piece in measured:
                        if recorder is not None and recorder.num_pieces < MOST_PIECES:
                            await asyncio.to_thread(recorder.take)
                            last.layers = recorder.times
                        yield piece
                    if recorder is not None:
                        await asyncio.to_thread(recorder.stop)
                        last.layers = recorder.times

    async def call(
        self,
        model: ServedModel,
        call: Callable[[Opened, Cancellation], T],
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        keep_alive_s: float | None = DEFAULT_KEEP,
    ) -> T:
        """Wait for a slot, load the model, and run `call` in a thread."""
        deadline = Deadline(timeout_s or self.settings.timeout_s)
        slot = self.admission.slot(priority=priority, timeout_s=deadline.left_s)
        async with slot, self.models.use(model, keep_alive_s) as opened:
            cancellation = Cancellation()
            work = partial(call, opened, cancellation)
            return await in_thread(work, self.threads, cancellation, deadline)

    async def _measured(
        self, stream: AsyncGenerator[Piece, None], start: float, last: LastRequest
    ) -> AsyncGenerator[Piece, None]:
        metrics = self.metrics
        before: dict[int, float] = {}
        async for piece in stream:
            now = time.perf_counter()
            chunk = piece.chunk
            metrics.count("generated_tokens_total", len(chunk.token_ids))
            if chunk.token_ids or chunk.text:
                if piece.index in before:
                    gap = (now - before[piece.index]) / max(1, len(chunk.token_ids))
                    metrics.observe(metrics.between_tokens, gap)
                elif not before:
                    last.first_token_ms = (now - start) * 1e3
                    metrics.observe(metrics.first_token, now - start)
                before[piece.index] = now
            if chunk.usage is not None:
                last.prompt_tokens = chunk.usage.prompt_tokens
                last.cached_tokens = chunk.usage.cached_tokens
                last.completion_tokens += chunk.usage.completion_tokens
                metrics.count("prompt_tokens_total", chunk.usage.prompt_tokens)
                metrics.count("cached_tokens_total", chunk.usage.cached_tokens)
                metrics.count("completion_tokens_total", chunk.usage.completion_tokens)
            if chunk.result is not None:
                last.reason = chunk.result.route.reason
                last.total_ms = (now - start) * 1e3
                metrics.observe(metrics.duration, now - start)
                metrics.count("answers_total")
                self.last = last
            yield piece

    def gauges(self) -> dict[str, float]:
        """Present values for /metrics and the console."""
        from autoglm.hardware.process import rss_bytes

        pages = [model.kv_pages for model in self.models.served.values()]
        return {
            "kv_pages_held": sum(held for held, _ in pages),
            "kv_pages": sum(total for _, total in pages),
            "requests_running": self.admission.num_running,
            "requests_waiting": self.admission.num_waiting,
            "slots": self.admission.num_slots,
            "queue_limit": self.admission.max_waiting,
            "models_loaded": sum(model.is_loaded for model in self.models.served.values()),
            "resident_bytes": rss_bytes() or 0,
            "uptime_seconds": time.time() - self.started_at,
        }

    async def close(self) -> None:
        """Give models and threads back."""
        await self.models.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


async def _naming(
    stream: AsyncGenerator[Piece, None], form_field: str
) -> AsyncGenerator[Piece, None]:
    """Name the field whose grammar cannot be used: that is known once it is compiled."""
    try:
        async for piece in stream:
            yield piece
    except GrammarError as err:
        raise FieldError(str(err), field=form_field) from err


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
