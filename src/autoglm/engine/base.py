"""The seams of an answer: engines over text, and token models under the local engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from autoglm.errors import AutoGLMError
from autoglm.types import Cancellation, Chunk, Logprob, Request, SamplingParams


class Engine(Protocol):
    """Anything that answers a request."""

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield the answer in pieces; only the last has a finish_reason."""


class WindowedEngine(Engine, Protocol):
    """An engine that reads at most `context_tokens` at once, prompt and answer together."""

    @property
    def context_tokens(self) -> int:
        """The window's size."""

    @property
    def temperature(self) -> float:
        """What the model's makers advise; 0 when they say nothing."""

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids of the whole prompt, however long."""

    def num_tokens(self, text: str) -> int:
        """The number of tokens of a plain text."""

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a plain text."""

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of tokens, names of control tokens included. Raises InvalidRequestError."""

    def logprobs(
        self, ids: Sequence[int], num_top: int, cancellation: Cancellation
    ) -> list[Logprob]:
        """How likely each of ids[1:] was, beside the `num_top` likeliest in its place."""

    def embed(self, ids: Sequence[int], cancellation: Cancellation) -> list[float]:
        """The mean of the last hidden states of a text. Raises InvalidRequestError."""

    def answer_tokens(self, request: Request) -> int:
        """The most tokens the answer may have: the request's limit, or the engine's."""


# What `Constraint.take` says of a token, as a sum; the core knows these numbers too.
ALLOWED = 1
LAST = 2  # no token may follow
BOUND = 4  # the next one has to be drawn under a mask
FORCED = 8  # tokens must follow
FAILED = 16


class Constraint(Protocol):
    """Says which tokens may come next in an answer of a given form. Asked by one thread."""

    def take(self, token: int) -> int:
        """Take a token if it may come; 0 if not, and nothing has changed."""

    def forced(self) -> list[int]:
        """What must follow the token that was taken last, and is taken with it."""

    def mask(self) -> bytes | None:
        """A bit for every token that may come next; None while that is not known, b"" never."""


class TokenSession(Protocol):
    """One sequence of tokens. Errors are those of `autoglm.errors`."""

    def append(self, ids: list[int]) -> int:
        """Take the prompt, to be read by passes; returns how many tokens a cache has already."""

    @property
    def num_pending(self) -> int:
        """How many tokens have to be read before the next one can be chosen."""

    def keep_to(self, constraint: Constraint) -> None:
        """Ask it about every token that is chosen."""

    def take_logprobs(self) -> list[Logprob]:
        """Of the tokens since the last call, when the sampling asked for them."""

    @property
    def num_drafted(self) -> int:
        """How many tokens were drafted so far."""

    @property
    def num_accepted(self) -> int:
        """How many of them were right."""

    def cancel(self) -> None:
        """Make the running or the next pass end with CancelledError. Callable from any thread."""


SessionT = TypeVar("SessionT", bound=TokenSession)


@dataclass(frozen=True, slots=True)
class Part(Generic[SessionT]):
    """What a session takes of a pass: tokens to read and, once all are read, to choose."""

    session: SessionT
    most_tokens: int
    most_ids: int


@dataclass(frozen=True, slots=True)
class PassOutcome:
    """What a session got: new tokens, up to and with the last one, and its own error."""

    ids: list[int]
    num_pending: int
    is_ended: bool
    error: AutoGLMError | None = None


class TokenModel(Protocol[SessionT]):
    """A model that continues token ids; knows no text."""

    @property
    def pool_tokens(self) -> int:
        """How many tokens' keys and values all sessions together may hold."""

    @property
    def max_pass_tokens(self) -> int:
        """How many tokens a pass reads at most."""

    def held_tokens(self, num_tokens: int) -> int:
        """How much of the pool a session of `num_tokens` takes at most."""

    def session(self, sampling: SamplingParams) -> SessionT:
        """A new, empty sequence."""

    def logprobs(
        self, ids: Sequence[int], num_top: int, cancellation: Cancellation
    ) -> list[Logprob]:
        """Of ids[1:], in a sequence of their own."""

    def embed(self, ids: Sequence[int], cancellation: Cancellation) -> list[float]:
        """The mean of the last hidden states of a sequence."""

    def run_passes(self, parts: Sequence[Part[SessionT]], seconds: float) -> list[PassOutcome]:
        """One pass for all parts, more of them while all only decode and `seconds` allow.

        The sessions are different ones. Raises what concerns all of them.
        """
