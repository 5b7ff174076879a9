"""Answers in progress: engines run in threads, and each answer is kept a while to be resumed.

An answer belongs to its tenant and the id of its request. A caller that comes back with the same id
and the number of tokens it has gets the rest. An answer that nobody reads any more is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from autoglm.engine.base import Engine
from autoglm.errors import AutoGLMError, CancelledError, InvalidRequestError, ResourceError
from autoglm.types import Chunk, Request

Key = tuple[str, str]
# How long an answer goes on without a reader: a broken connection is back by then.
ORPHAN_S = 2.0


@dataclass(slots=True)
class Answer:
    """What an engine has said so far. Only the event loop touches it."""

    request: Request
    chunks: list[Chunk] = field(default_factory=list)
    error: AutoGLMError | None = None
    is_done: bool = False
    ended_at: float = 0.0
    num_readers: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    held_text: str = ""

    def add(self, chunk: Chunk) -> None:
        """Take a chunk in; text without tokens goes with the next, so that offsets are clear."""
        chunk = replace(chunk, text=self.held_text + chunk.text)
        self.held_text = ""
        if not chunk.token_ids and chunk.finish_reason is None:
            self.held_text = chunk.text
            return
        self.chunks.append(chunk)
        self._wake()

    def end(self, error: AutoGLMError | None, now: float) -> None:
        """Nothing comes any more."""
        self.error, self.is_done, self.ended_at = error, True, now
        self._wake()

    def _wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class _Inbox:
    """Chunks on their way from many engine threads to the loop, which is woken once for all."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Answer, Chunk]] = deque()
        self._is_woken = False

    def put(self, answer: Answer, chunk: Chunk, loop: asyncio.AbstractEventLoop) -> None:
        """Hand a chunk over. Called by any thread."""
        self._waiting.append((answer, chunk))
        if not self._is_woken:
            self._is_woken = True
            loop.call_soon_threadsafe(self.empty)

    def empty(self) -> None:
        """Give every chunk to its answer. Called by the loop."""
        # Before the first is taken: a thread that puts one in from here on wakes the loop again.
        self._is_woken = False
        while self._waiting:
            answer, chunk = self._waiting.popleft()
            answer.add(chunk)


class Answers:
    """Runs up to `slots` requests at once and lets `queue` more wait. For one event loop."""

    def __init__(self, engine: Engine, *, slots: int, queue: int, resume_s: float) -> None:
        self._engine = engine
        self._slots = asyncio.Semaphore(slots)
        self._most = slots + queue
        self._resume_s = resume_s
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="autoglm-cloud")
        self._answers: dict[Key, Answer] = {}
        self._running: dict[asyncio.Task[None], Answer] = {}
        self._inbox = _Inbox()

    @property
    def num_running(self) -> int:
        """Answers that wait or are being written."""
        return len(self._running)

    async def stream(
        self, key: Key, request: Request, offset: int, *, deadline: float | None
    ) -> AsyncGenerator[Chunk, None]:
        """The chunks after the first `offset` tokens; `deadline` is in the loop's time.

        Raises what the engine raises, ResourceError when too much waits, and
        InvalidRequestError for an offset that is no end of a chunk.
        """
        answer = self._answers.get(key)
        if answer is None or answer.request != request:
            answer = self._start(key, request)
        answer.num_readers += 1
        try:
            async for chunk in _read(answer, offset):
                yield chunk
        finally:
            answer.num_readers -= 1
            loop = asyncio.get_running_loop()
            is_late = deadline is not None and loop.time() >= deadline
            loop.call_later(0 if is_late else ORPHAN_S, _cancel_unread, answer)

    def _start(self, key: Key, request: Request) -> Answer:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._resume_s
        for old, done in list(self._answers.items()):
            if done.is_done and done.ended_at < oldest:
                del self._answers[old]
        if len(self._running) >= self._most:
            message = f"{len(self._running)} answers are in progress; try again later"
            raise ResourceError(message)
        answer = self._answers[key] = Answer(request)
        task = loop.create_task(self._run(answer))
        self._running[task] = answer
        task.add_done_callback(self._running.pop)
        return answer

    async def _run(self, answer: Answer) -> None:
        loop = asyncio.get_running_loop()
        async with self._slots:
            error = await loop.run_in_executor(self._threads, self._write, answer, loop)
        self._inbox.empty()
        answer.end(error, loop.time())

    def _write(self, answer: Answer, loop: asyncio.AbstractEventLoop) -> AutoGLMError | None:
        """Run the engine in this thread and hand its chunks to the loop."""
        if answer.request.cancellation.is_cancelled:
            return CancelledError("cancelled before it began")
        try:
            for chunk in self._engine.stream(answer.request):
                self._inbox.put(answer, chunk, loop)
        except AutoGLMError as err:
            return err
        return None

    async def close(self, seconds: float) -> None:
        """Wait for running answers, cancel those that take longer, and end the threads."""
        running = dict(self._running)
        if running:
            await asyncio.wait(running, timeout=seconds)
        for answer in self._running.values():
            answer.request.cancellation.cancel()
        if self._running:
            await asyncio.wait(dict(self._running))
        self._threads.shutdown()


def _cancel_unread(answer: Answer) -> None:
    if not answer.num_readers and not answer.is_done:
        answer.request.cancellation.cancel()


async def _read(answer: Answer, offset: int) -> AsyncIterator[Chunk]:
    position = index = 0
    while True:
        while index < len(answer.chunks):
            chunk = answer.chunks[index]
            index += 1
            start, position = position, position + len(chunk.token_ids)
            if start < offset < position:
                message = f"offset {offset} lies within a piece of the answer"
                raise InvalidRequestError(message)
            if position > offset or chunk.finish_reason is not None:
                yield chunk
        if answer.is_done:
            if answer.error is not None:
                raise answer.error
            return
        await answer.news.wait()
