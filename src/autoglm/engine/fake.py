"""A token model without weights, for tests: a function from the prompt's ids to the answer's."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

from autoglm.errors import CancelledError
from autoglm.types import SamplingParams

Continuation = Callable[[list[int], SamplingParams], Sequence[int]]


class FakeModel:
    """Continues a prompt with what `continuation` returns, then with its last token for ever."""

    def __init__(self, continuation: Continuation, *, pool_tokens: int = 4096) -> None:
        self.pool_tokens = pool_tokens
        self.prompts: list[list[int]] = []
        self._continuation = continuation

    def held_tokens(self, num_tokens: int) -> int:
        """Every token is held."""
        return num_tokens

    def session(self, sampling: SamplingParams) -> FakeSession:
        """A new, empty sequence."""
        return FakeSession(self, self._continuation, sampling)


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
        self._is_cancelled = threading.Event()
        self.num_drafted = 0
        self.num_accepted = 0

    def prefill(self, ids: list[int]) -> int:
        """Remember the prompt or its next piece; nothing comes from a cache."""
        self._raise_if_cancelled()
        if not self._prompt:
            self._model.prompts.append(self._prompt)
        self._prompt += ids
        self._answer = list(self._continuation(self._prompt, self._sampling))
        return 0

    def decode(self, num_tokens: int, seconds: float = math.inf) -> list[int]:
        """The next tokens of the answer; all of them take no time."""
        self._raise_if_cancelled()
        stop = self._position + num_tokens
        while len(self._answer) < stop:
            self._answer.append(self._answer[-1])
        tokens = self._answer[self._position : stop]
        self._position = stop
        return tokens

    def cancel(self) -> None:
        """Make running and later calls raise CancelledError."""
        self._is_cancelled.set()

    def _raise_if_cancelled(self) -> None:
        if self._is_cancelled.is_set():
            message = "cancelled"
            raise CancelledError(message)
