"""When to leave the cloud alone: a circuit breaker and a budget of retries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

OPEN_S = 10.0
EARNED = 0.1
MOST_RETRIES = 10.0


class Breaker:
    """Opens at a failure; after `open_s` lets one request through to see whether it was right."""

    def __init__(
        self, *, open_s: float = OPEN_S, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_s = open_s
        self._now = now
        self._lock = threading.Lock()
        self._tried_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the last request that was let through failed."""
        return self._tried_at is not None

    def allows(self) -> bool:
        """Whether this request may try; an open breaker allows one each `open_s`."""
        with self._lock:
            if self._tried_at is None:
                return True
            now = self._now()
            if now - self._tried_at < self._open_s:
                return False
            self._tried_at = now
            return True

    def succeeded(self) -> None:
        """The service answered: close."""
        with self._lock:
            self._tried_at = None

    def failed(self) -> None:
        """The service did not answer: open."""
        with self._lock:
            self._tried_at = self._now()


class RetryBudget:
    """Lets a share of the requests be tried twice, so that an outage is not made worse."""

    def __init__(self, *, saved: float = 1.0, earned: float = EARNED) -> None:
        """`saved` retries may be made at once in the beginning; each request brings `earned`."""
        self._lock = threading.Lock()
        self._saved = saved
        self._earned = earned

    def earn(self) -> None:
        """A request begins."""
        with self._lock:
            self._saved = min(MOST_RETRIES, self._saved + self._earned)

    def take(self) -> bool:
        """Whether a retry may be made; it is counted."""
        with self._lock:
            # Ten tenths are a little less than one.
            if self._saved < 1 - 1e-9:
                return False
            self._saved -= 1
            return True
