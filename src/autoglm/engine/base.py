"""The seam every answer passes through, and what reading long texts needs besides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from autoglm.types import Chunk, Request


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
