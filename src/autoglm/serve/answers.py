"""Runs requests of the service: threads of the engine on one side, the event loop on the other.

Whoever stops listening cancels: the request ends within a pass, in whatever phase it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from autoglm.errors import CancelledError
from autoglm.runtime import Runtime
from autoglm.serve.errors import DeadlineError
from autoglm.types import Cancellation, Chunk, Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of answer number `index`."""

    index: int
    chunk: Chunk


class Deadline:
    """When a request must be done; its requests are cancelled at that moment."""

    def __init__(self, seconds: float | None) -> None:
        """None: never."""
        self._expires = None if not seconds else time.monotonic() + seconds

    @property
    def left_s(self) -> float | None:
        """What is left. Raises DeadlineError when nothing is."""
        if self._expires is None:
            return None
        left = self._expires - time.monotonic()
        if left <= 0:
            message = "the request's time is over"
            raise DeadlineError(message)
        return left

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self._expires is not None and time.monotonic() >= self._expires

    def end(self, cancellation: Cancellation) -> None:
        """It is over now, by a timer that may come a moment too soon."""
        self._expires = time.monotonic()
        cancellation.cancel()


class _Stream:
    """The answers to several requests, as they come from threads."""

    def __init__(self, runtime: Runtime, requests: Sequence[Request]) -> None:
        self._runtime = runtime
        self._requests = requests
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Piece | Exception | int] = asyncio.Queue()

    def work(self, index: int) -> None:
        """Run in a thread: everything that happens goes to the loop, the end as the index."""
        try:
            for chunk in self._runtime.stream(self._requests[index]):
                self._put(Piece(index, chunk))
        except Exception as err:  # it is raised again where the answer is awaited
            self._put(err)
        self._put(index)

    def _put(self, item: Piece | Exception | int) -> None:
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def pieces(self, threads: ThreadPoolExecutor) -> AsyncGenerator[Piece, None]:
        """All pieces. The first request goes ahead, so that the others find its prompt read."""
        running = [self._loop.run_in_executor(threads, self.work, 0)]
        num_open = len(self._requests)
        try:
            while num_open:
                item = await self._items.get()
                if len(running) < len(self._requests):
                    rest = range(1, len(self._requests))
                    running += [self._loop.run_in_executor(threads, self.work, i) for i in rest]
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, int):
                    num_open -= 1
                else:
                    yield item
        finally:
            for request in self._requests:
                request.cancellation.cancel()
            await _finished(running)


async def _finished(running: Sequence[asyncio.Future[None]]) -> None:
    """Wait for threads even when this task is cancelled meanwhile: they hold the slot."""
    is_cancelled = False
    while not all(work.done() for work in running):
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError


async def pieces(
    runtime: Runtime, requests: Sequence[Request], deadline: Deadline, threads: ThreadPoolExecutor
) -> AsyncGenerator[Piece, None]:
    """The answers in pieces. Raises what the engine raises, and DeadlineError."""
    loop = asyncio.get_running_loop()
    left = deadline.left_s
    timers = [
        loop.call_later(left, deadline.end, request.cancellation)
        for request in requests
        if left is not None
    ]
    stream = _Stream(runtime, requests).pieces(threads)
    try:
        async for piece in stream:
            if piece.chunk.finish_reason == "cancelled" and deadline.is_over:
                message = "the request's time was over before its answer was complete"
                raise DeadlineError(message)
            yield piece
    finally:
        for timer in timers:
            timer.cancel()
        await stream.aclose()


async def in_thread(
    call: Callable[[], T],
    threads: ThreadPoolExecutor,
    cancellation: Cancellation,
    deadline: Deadline,
) -> T:
    """Run a call that cannot be streamed; it is cancelled with this task, or by the deadline."""
    loop = asyncio.get_running_loop()
    left = deadline.left_s
    timer = None if left is None else loop.call_later(left, deadline.end, cancellation)
    work = loop.run_in_executor(threads, call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        cancellation.cancel()
        await asyncio.wait([work])
        raise
    except CancelledError as err:
        if not deadline.is_over:
            raise
        message = "the request's time was over before its answer was complete"
        raise DeadlineError(message) from err
    finally:
        if timer is not None:
            timer.cancel()


async def unless_gone(work: Awaitable[T], receive: Callable[[], Awaitable[Any]]) -> T:
    """The result of `work`, which is cancelled when the client has gone.

    It runs in the task of the caller: one of its own would cost another turn of the loop.
    """
    caller = asyncio.current_task()
    if caller is None:
        message = "unless_gone is called outside of a task"
        raise RuntimeError(message)
    listening = asyncio.ensure_future(_disconnected(receive))
    is_over, has_gone = False, False

    def leave(ended: asyncio.Future[None]) -> None:
        nonlocal has_gone
        if ended.cancelled():
            return
        ended.exception()  # whatever it was, nobody listens any more
        if not is_over:
            has_gone = True
            caller.cancel()

    listening.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError as err:
        if has_gone and caller.uncancel() == 0:
            message = "the client has gone"
            raise CancelledError(message) from err
        raise
    finally:
        is_over = True
        listening.cancel()


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


Ending = Literal["stop", "length", "tool_calls"]


def ending(reason: str | None) -> Ending:
    """A finish reason as clients know it. A cancelled answer has no client."""
    if reason == "length":
        return "length"
    if reason == "cancelled":
        message = "the request was cancelled"
        raise CancelledError(message)
    return "stop"
