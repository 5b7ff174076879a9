"""The seams of an answer: engines over text, and token models under the local engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from autoglm.types import Chunk, Request, SamplingParams


class Engine(Protocol):
    """Anything that answers a request."""

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield the answer in pieces; only the last has a finish_reason."""


class WindowedEngine(Engine, Protocol):
    """An engine that reads at most `context_tokens` at once, prompt and answer together."""

    @property
    def context_tokens(self) -> int:
        """The window's size."""

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids of the whole prompt, however long."""

    def num_tokens(self, text: str) -> int:
        """The number of tokens of a plain text."""

    def answer_tokens(self, request: Request) -> int:
        """The most tokens the answer may have: the request's limit, or the engine's."""


class TokenSession(Protocol):
    """One sequence of tokens. Errors are those of `autoglm.errors`."""

    def prefill(self, ids: list[int]) -> int:
        """Read the prompt; returns how many tokens' keys and values came from a cache."""

    def decode(self, num_tokens: int, seconds: float = ...) -> list[int]:
        """The next tokens, at most `num_tokens`, up to and with an end token.

        At least one, and as many as take no longer than `seconds`, which is unlimited if left out.
        """

    @property
    def num_drafted(self) -> int:
        """How many tokens were drafted so far."""

    @property
    def num_accepted(self) -> int:
        """How many of them were right."""

    def cancel(self) -> None:
        """Make running and later calls raise CancelledError. Callable from any thread."""


class TokenModel(Protocol):
    """A model that continues token ids; knows no text."""

    @property
    def pool_tokens(self) -> int:
        """How many tokens' keys and values all sessions together may hold."""

    def held_tokens(self, num_tokens: int) -> int:
        """How much of the pool a session of `num_tokens` takes at most."""

    def session(self, sampling: SamplingParams) -> TokenSession:
        """A new, empty sequence."""
