"""The cloud's answer while the cloud answers, else the device's: none is cut off silently.

A failure before the first token is answered on the device from the beginning; after it the device
goes on from the tokens that are there. `Result.route` tells which it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from autoglm.engine.base import Engine
from autoglm.engine.breaker import Breaker
from autoglm.engine.cloud import TIMEOUT_S
from autoglm.engine.hedge import Hedge, Place
from autoglm.engine.reachability import Reachability
from autoglm.errors import (
    CloudError,
    ContextOverflowError,
    InvalidRequestError,
    PrivacyError,
)
from autoglm.protocol.channel import UnreachableError
from autoglm.types import Chunk, Request, Result, Route, Timings, Usage

# Round trips that an answer takes at least: to connect, to prove who asks, to ask.
ROUND_TRIPS = 4


class Device(Engine, Protocol):
    """An engine that can go on with an answer that another one began."""

    def answer_tokens(self, request: Request) -> int:
        """The most tokens the answer may have: the request's limit, or the engine's."""

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids of the whole prompt, however long."""

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a plain text."""


@dataclass(slots=True)
class _Story:
    """What has been said of an answer so far, and by whom."""

    place: Place
    reason: str
    start: float = field(default_factory=time.perf_counter)
    first_ms: float = 0.0
    text: str = ""
    num_tokens: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def take(self, chunk: Chunk) -> None:
        if not self.first_ms:
            self.first_ms = self.passed_ms()
        self.text += chunk.text
        self.num_tokens += len(chunk.token_ids)

    def passed_ms(self) -> float:
        return (time.perf_counter() - self.start) * 1e3


class FailoverEngine:
    """An engine over a cloud engine and a local one. Safe to use from several threads."""

    def __init__(
        self,
        cloud: Engine,
        local: Device,
        breaker: Breaker,
        *,
        cloud_model: str,
        local_model: str,
        reachability: Reachability | None = None,
        hedge: Hedge | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`timeout_s` is what the cloud engine gives an answer; a way too slow for it is not used.

        With a `hedge` the device also tries when the cloud is slow with its first token.
        """
        self._reachability = reachability
        self._hedge = hedge
        self._timeout_s = timeout_s
        self._cloud = cloud
        self._local = local
        self._breaker = breaker
        self._models: dict[Place, str] = {"cloud": cloud_model, "local": local_model}

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield the answer in pieces; the last carries the result.

        Raises what the local engine raises, and CloudError when the device cannot go on with an
        answer that broke off.
        """
        story = _Story("cloud", "the cloud answered")
        if (reason := self._stays_here()) is not None:
            story.reason = reason
            yield from self._on_device(request, story)
            return
        try:
            yield from self._in_cloud(request, story)
        except (InvalidRequestError, PrivacyError) as err:
            if story.num_tokens:
                raise
            # Not a failure of the cloud: policy and wire carry less than the local engine takes.
            story.reason = f"not sent to the cloud: {err}"
            yield from self._on_device(request, story)
        except CloudError as err:
            self._breaker.failed()
            if self._reachability is not None and isinstance(err, UnreachableError):
                self._reachability.lost()
            if not story.num_tokens:
                story.reason = f"the cloud failed: {err}"
                yield from self._on_device(request, story)
            else:
                yield from self._continued(request, story, err)

    def _stays_here(self) -> str | None:
        """Why no request goes to the cloud now."""
        if self._reachability is not None:
            round_trip_ms = self._reachability.round_trip_ms()
            if round_trip_ms is None:
                return "the cloud cannot be reached"
            if round_trip_ms * ROUND_TRIPS > self._timeout_s * 1e3:
                return f"the cloud is {round_trip_ms:.0f} ms away, too far for the deadline"
        return None if self._breaker.allows() else "the cloud did not answer a moment ago"

    def _in_cloud(self, request: Request, story: _Story) -> Iterator[Chunk]:
        if self._hedge is None:
            answer: Iterator[tuple[Place, Chunk]] = (
                ("cloud", chunk) for chunk in self._cloud.stream(request)
            )
        else:
            answer = self._hedge.stream(self._cloud, self._local, request)
        for place, chunk in answer:
            if place == "cloud":
                self._breaker.succeeded()
            elif story.place != place:
                story.place, story.reason = place, "the device was faster than the cloud"
            story.take(chunk)
            yield self._told(chunk, story)

    def _on_device(self, request: Request, story: _Story) -> Iterator[Chunk]:
        story.place = "local"
        for chunk in self._local.stream(request):
            story.take(chunk)
            yield self._told(chunk, story)

    def _continued(self, request: Request, story: _Story, cause: CloudError) -> Iterator[Chunk]:
        """Let the device go on after the text so far."""
        if request.schema is not None:
            # The rest alone would not be bound to the schema.
            message = f"an answer with a schema broke off after {story.num_tokens} tokens: {cause}"
            raise CloudError(message) from cause
        left = self._local.answer_tokens(request) - story.num_tokens
        ids = (*self._local.prompt_ids(request), *self._local.token_ids(story.text))
        story.reason = f"the cloud broke off after {story.num_tokens} tokens: {cause}"
        story.usage = Usage(0, story.num_tokens)
        if left <= 0:
            yield self._told(Chunk("", finish_reason="length", usage=Usage(0, 0)), story)
            return
        rest = Request(
            prompt=ids,
            max_tokens=left,
            sampling=request.sampling,
            stop=request.stop,
            cancellation=request.cancellation,
        )
        try:
            yield from self._on_device(rest, story)
        except ContextOverflowError as err:
            message = f"{story.reason}, and the text is too long for the device to go on"
            raise CloudError(message) from err

    def _told(self, chunk: Chunk, story: _Story) -> Chunk:
        """The last chunk with the result."""
        if chunk.finish_reason is None:
            return chunk
        usage = story.usage + (chunk.usage or Usage(0, 0))
        route = Route(story.place, self._models[story.place], story.reason)
        timings = Timings(0.0, story.first_ms, story.passed_ms())
        result = Result(story.text, None, route, usage, timings, chunk.finish_reason)
        if (found := chunk.result) is not None:
            # The device has told how it came to the answer, of which this may be the end.
            reason = f"{story.reason}; {found.route.reason}"
            result = replace(
                found, text=story.text, route=replace(found.route, reason=reason), usage=usage
            )
        return replace(chunk, usage=usage, result=result)
