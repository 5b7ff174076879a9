"""Shares the KV cache between requests: each reserves what it may need before it starts.

Requests are served in the order in which they came, so that small ones cannot starve a large one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from autoglm.errors import CancelledError, ResourceError
from autoglm.types import Cancellation

PATIENCE_S = 60.0


class TokenPool:
    """A number of tokens that requests reserve from; the next one waits when too few are left."""

    def __init__(self, num_tokens: int, *, patience_s: float = PATIENCE_S) -> None:
        self._num_free = num_tokens
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reserved(self, num_tokens: int, cancellation: Cancellation) -> Iterator[None]:
        """Hold `num_tokens` while the block runs.

        Raises CancelledError, and ResourceError when nothing changed for `patience_s`: then
        a stream was left open, possibly by the thread that waits.
        """
        with cancellation.attached(self._wake):
            self._take(num_tokens, cancellation)
        try:
            yield
        finally:
            with self._changed:
                self._num_free += num_tokens
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _take(self, num_tokens: int, cancellation: Cancellation) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self._num_free < num_tokens:
                    self._wait(num_tokens, cancellation)
                self._num_free -= num_tokens
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()  # there may be room for the next one too

    def _wait(self, num_tokens: int, cancellation: Cancellation) -> None:
        if cancellation.is_cancelled:
            message = "cancelled while waiting for the KV cache"
            raise CancelledError(message)
        if not self._changed.wait(self._patience_s):
            message = (
                f"the KV cache has room for {self._num_free} more tokens and the request "
                f"needs {num_tokens}; finish or close the open streams"
            )
            raise ResourceError(message)
