"""A token model without weights, for tests: a function from the prompt's ids to the answer's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from autoglm.engine.base import FORCED, LAST, Constraint, Part, PassOutcome
from autoglm.errors import CancelledError
from autoglm.types import Cancellation, Logprob, SamplingParams

Continuation = Callable[[list[int], SamplingParams], Sequence[int]]


class FakeModel:
    """Continues a prompt with what `continuation` returns, then with its last token for ever."""

    def __init__(self, continuation: Continuation, *, pool_tokens: int = 4096) -> None:
        self.pool_tokens = pool_tokens
        self.max_pass_tokens = 256
        self.prompts: list[list[int]] = []
        self._continuation = continuation

    def held_tokens(self, num_tokens: int) -> int:
        """Every token is held."""
        return num_tokens

    def session(self, sampling: SamplingParams) -> FakeSession:
        """A new, empty sequence."""
        return FakeSession(self, self._continuation, sampling)

    def logprobs(
        self, ids: Sequence[int], num_top: int, cancellation: Cancellation
    ) -> list[Logprob]:
        """A model that is sure of every token."""
        return [Logprob(token, 0.0, ((token, 0.0),) if num_top else ()) for token in ids[1:]]

    def embed(self, ids: Sequence[int], cancellation: Cancellation) -> list[float]:
        """The mean of the token ids."""
        return [sum(ids) / len(ids)]

    def run_passes(self, parts: Sequence[Part[FakeSession]], seconds: float) -> list[PassOutcome]:
        """One step of every session; `seconds` do not matter as nothing takes time."""
        return [part.session.step(part) for part in parts]


class FakeSession:
    """One sequence of a FakeModel."""

    def __init__(
        self, model: FakeModel, continuation: Continuation, sampling: SamplingParams
    ) -> None:
        self._model = model
        self._continuation = continuation
        self._sampling = sampling
        self._prompt: list[int] = []
        self._answer: list[int] = []
        self._position = 0
        self._constraint: Constraint | None = None
        self._is_cancelled = threading.Event()
        self.num_pending = 0
        self.num_drafted = 0
        self.num_accepted = 0

    def append(self, ids: list[int]) -> int:
        """Remember the prompt; nothing comes from a cache."""
        self._prompt += ids
        self.num_pending = len(self._prompt)
        return 0

    def keep_to(self, constraint: Constraint) -> None:
        """The next token is the lowest that may come."""
        self._constraint = constraint

    def take_logprobs(self) -> list[Logprob]:
        """A fake knows none."""
        return []

    def step(self, part: Part[FakeSession]) -> PassOutcome:
        """Read some of the prompt or give some of the answer; both take no time."""
        if self._is_cancelled.is_set():
            return PassOutcome([], self.num_pending, False, CancelledError("cancelled"))
        if self.num_pending > part.most_tokens:
            self.num_pending -= part.most_tokens
            return PassOutcome([], self.num_pending, False)
        if self._constraint is not None:
            return self._bound_step(self._constraint)
        if not self._answer:
            self._model.prompts.append(self._prompt)
            self._answer = list(self._continuation(self._prompt, self._sampling))
        self.num_pending = 1 if part.most_ids else 0
        stop = self._position + part.most_ids
        while len(self._answer) < stop:
            self._answer.append(self._answer[-1])
        tokens = self._answer[self._position : stop]
        self._position = stop
        return PassOutcome(tokens, self.num_pending, False)

    def _bound_step(self, constraint: Constraint) -> PassOutcome:
        mask = constraint.mask()
        if mask is None:
            return PassOutcome([], 0, False)
        ids = [_lowest(mask)]
        says = constraint.take(ids[0])
        if says & FORCED:
            ids += constraint.forced()
        return PassOutcome(ids, len(ids), bool(says & LAST))

    def cancel(self) -> None:
        """Make running and later calls raise CancelledError."""
        self._is_cancelled.set()


def _lowest(mask: bytes) -> int:
    return next(i for i in range(8 * len(mask)) if mask[i // 8] >> i % 8 & 1)
