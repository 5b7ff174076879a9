"""Runs the sequences of one model together: every pass reads the weights once for all of them.

Owns who takes part in the next pass and with how much. Sequences that decode go first, one token
each; prompts share what is left. Results never depend on who else is served.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from autoglm.engine.base import Part, PassOutcome, TokenModel, TokenSession
from autoglm.errors import AutoGLMError, CancelledError
from autoglm.types import Logprob

# One native call should last about this long: short enough to stream and to let others in.
STEP_S = 0.04
MAX_STEP_TOKENS = 64
# A pass with prompts in it should last about this long while others decode.
BUSY_PASS_S = 0.12
MIN_BUSY_TOKENS = 16
# Every so many passes the oldest prompt is read first, otherwise the one with the least left.
OLDEST_EVERY = 4
# A reader that has so many batches waiting is not decoded for any further.
MAX_UNREAD = 4
# Tokens that a sequence of a given form reads in a pass beside others: forced ones come together.
MOST_FORCED = 4
# A first token is to be seen before the next pass takes all processors again.
FIRST_LOOK_S = 0.0008
_MEMORY = 0.7  # of the moving average


@dataclass(slots=True)
class Batch:
    """New tokens of one sequence; `is_ended` when the last of them ends the answer."""

    ids: list[int]
    logprobs: list[Logprob]
    is_ended: bool


@dataclass(slots=True)
class _Job:
    session: TokenSession
    num_pending: int
    num_left: int
    news: threading.Condition
    most_tokens: int  # to read at once while it decodes
    unread: deque[Batch] = field(default_factory=deque)
    has_begun: bool = False
    is_running: bool = False
    is_done: bool = False
    error: AutoGLMError | None = None

    @property
    def is_ready(self) -> bool:
        return not self.is_done and len(self.unread) < MAX_UNREAD

    @property
    def is_decoding(self) -> bool:
        return self.num_pending <= self.most_tokens

    @property
    def most_ids(self) -> int:
        """The first token comes alone, to be seen soon."""
        return min(self.num_left, MAX_STEP_TOKENS) if self.has_begun else 1


class Scheduler:
    """Shares the passes of a model between requests. Safe to use from several threads."""

    def __init__(
        self, model: TokenModel[Any], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """The thread that runs the passes lives as long as there is work."""
        self._model = model
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: list[_Job] = []
        self._thread: threading.Thread | None = None
        self._num_passes = 0
        self._row_s = BUSY_PASS_S / 256

    @property
    def num_running(self) -> int:
        """How many sequences there are."""
        return len(self._jobs)

    def run(
        self, session: TokenSession, num_tokens: int, *, has_form: bool = False
    ) -> Generator[Batch, None, None]:
        """Yield the next `num_tokens` tokens of a session to which the prompt was appended.

        `has_form` when it keeps to a constraint, which may force tokens.

        Ends early at an end token, or when the context is full. Raises CancelledError when the
        session was cancelled, and what computing raises. The session is no longer used once the
        generator has ended or was closed.
        """
        news = threading.Condition(self._lock)
        most_tokens = MOST_FORCED if has_form else 1
        job = _Job(session, session.num_pending, num_tokens, news, most_tokens)
        with self._lock:
            self._jobs.append(job)
            self._wake()
        try:
            while (batch := self._next(job)) is not None:
                yield batch
        finally:
            self._remove(job)

    def _next(self, job: _Job) -> Batch | None:
        with self._lock:
            while not job.unread and not job.is_done:
                job.news.wait()
            if job.unread:
                self._wake()
                return job.unread.popleft()
            if job.error is not None:
                raise job.error
            return None

    def _remove(self, job: _Job) -> None:
        with self._lock:
            if job.is_running and not job.is_done:
                job.session.cancel()
            job.is_done = True
            while job.is_running:
                job.news.wait()
            self._jobs.remove(job)
            job.error = None  # its traceback holds the job, and with it the session's pages

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="autoglm-passes")
            self._thread.start()

    def _work(self) -> None:
        """Run passes until nobody is ready; a thread that waits would outlive its users."""
        while self._run_pass():
            pass

    def _run_pass(self) -> bool:
        with self._lock:
            jobs, parts = self._choose()
            if not parts:
                self._thread = None
                return False
            for job in jobs:
                job.is_running = True
        start = self._clock()
        outcomes, error = self._compute(parts)
        with self._lock:
            self._learn(parts, self._clock() - start)
            is_first = len(self._jobs) == 1 and not jobs[0].has_begun
            _deliver(jobs, outcomes, error)
            is_first = is_first and jobs[0].has_begun and not jobs[0].is_done
            # Whoever waits for its session to be free must find no other reference to it.
            jobs.clear()
            parts.clear()
        if is_first:
            time.sleep(FIRST_LOOK_S)
        return True

    def _compute(self, parts: list[Part[Any]]) -> tuple[list[PassOutcome], AutoGLMError | None]:
        try:
            return self._model.run_passes(parts, STEP_S), None
        except Exception as err:  # whoever waits must hear of it
            return [], _as_ours(err)

    def _choose(self) -> tuple[list[_Job], list[Part[Any]]]:
        ready = [job for job in self._jobs if job.is_ready]
        room = self._model.max_pass_tokens
        jobs = []
        for job in ready:
            if job.is_decoding and room >= job.most_tokens:
                room -= job.most_tokens
                jobs.append(job)
        parts = [Part(job.session, job.most_tokens, job.most_ids) for job in jobs]
        if jobs:
            room = min(room, max(MIN_BUSY_TOKENS, int(BUSY_PASS_S / self._row_s)))
        reading = [job for job in ready if not job.is_decoding]
        self._num_passes += 1
        if self._num_passes % OLDEST_EVERY:
            reading.sort(key=lambda job: job.num_pending)
        for job in reading:
            if room < 1:
                break
            num_tokens = min(job.num_pending, room)
            room -= num_tokens
            jobs.append(job)
            parts.append(Part(job.session, num_tokens, job.most_ids))
        return jobs, parts

    def _learn(self, parts: list[Part[Any]], seconds: float) -> None:
        num_rows = sum(part.most_tokens for part in parts)
        if num_rows >= MIN_BUSY_TOKENS and any(part.most_tokens > MOST_FORCED for part in parts):
            self._row_s = _MEMORY * self._row_s + (1 - _MEMORY) * seconds / num_rows


def _as_ours(err: Exception) -> AutoGLMError:
    """The error itself, or one that hides the text of an unknown one: it may be a user's."""
    if isinstance(err, AutoGLMError):
        return err
    failure = AutoGLMError(f"internal error ({type(err).__name__}) in a pass")
    failure.__cause__ = err
    return failure


def _deliver(jobs: list[_Job], outcomes: list[PassOutcome], error: AutoGLMError | None) -> None:
    """Tell the readers what a pass brought, or what went wrong for all of them."""
    for number, job in enumerate(jobs):
        job.is_running = False
        if error is None:
            _take(job, outcomes[number])
        else:
            job.error, job.is_done = error, True
        job.news.notify()


def _take(job: _Job, outcome: PassOutcome) -> None:
    """Give the outcome of a pass to its reader."""
    job.num_pending = outcome.num_pending
    job.num_left -= len(outcome.ids)
    if outcome.ids:
        job.has_begun = True
        job.unread.append(Batch(outcome.ids, job.session.take_logprobs(), outcome.is_ended))
    job.error = outcome.error
    if isinstance(outcome.error, CancelledError):
        job.unread.clear()
    job.is_done = job.is_done or bool(
        outcome.is_ended or outcome.error is not None or job.num_left <= 0
    )
