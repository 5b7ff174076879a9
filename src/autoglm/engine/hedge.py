"""A second try on the device while the cloud is slow to begin; the one who speaks first goes on.

Off unless asked for. Few requests are tried twice, so that a slow cloud does not heat the device.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Literal

from autoglm.engine.base import Engine
from autoglm.engine.breaker import RetryBudget
from autoglm.errors import AutoGLMError
from autoglm.types import Cancellation, Chunk, Request

Place = Literal["local", "cloud"]
# Of all requests, how many may be tried twice.
SHARE = 0.02
_Said = Chunk | AutoGLMError | None


class Hedge:
    """Safe to use from several threads."""

    def __init__(self, after_s: float, *, budget: RetryBudget | None = None) -> None:
        self._after_s = after_s
        self._budget = budget or RetryBudget(earned=SHARE)

    def stream(
        self, cloud: Engine, device: Engine, request: Request
    ) -> Generator[tuple[Place, Chunk], None, None]:
        """The chunks of the one that speaks first, each with its place. Raises what that raises."""
        self._budget.earn()
        stop = Cancellation()
        said: queue.SimpleQueue[_Said] = queue.SimpleQueue()
        asked = replace(request, cancellation=stop)
        threading.Thread(target=_pump, args=(cloud, asked, said), daemon=True).start()
        with request.cancellation.attached(stop.cancel):
            try:
                first = self._first(said)
                if first is _SILENT:
                    answer = device.stream(request)
                    chunk = next(answer)
                    if said.empty():
                        stop.cancel()
                        yield from (("local", each) for each in _with(chunk, answer))
                        return
                    first = said.get()
                yield from (("cloud", each) for each in _spoken(first, said))
            finally:
                stop.cancel()

    def _first(self, said: queue.SimpleQueue[_Said]) -> _Said | _Silent:
        """What the cloud says first; _SILENT when the device may try, too."""
        try:
            return said.get(timeout=self._after_s)
        except queue.Empty:
            return _SILENT if self._budget.take() else said.get()


class _Silent:
    """Nothing has been said yet."""


_SILENT = _Silent()


def _with(first: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield first
    yield from rest


def _spoken(first: _Said | _Silent, said: queue.SimpleQueue[_Said]) -> Iterator[Chunk]:
    """The chunks until the end of the answer. Raises what ended it."""
    following = first
    while isinstance(following, Chunk):
        yield following
        following = said.get()
    if isinstance(following, AutoGLMError):
        raise following


def _pump(engine: Engine, request: Request, said: queue.SimpleQueue[_Said]) -> None:
    try:
        for chunk in engine.stream(request):
            said.put(chunk)
        said.put(None)
    except AutoGLMError as err:
        said.put(err)
