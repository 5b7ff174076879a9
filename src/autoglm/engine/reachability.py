"""Whether the cloud can be reached, by probes of the real way to it, which no request waits for.

Only the first request waits for one, for as long as a probe may take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FRESH_S = 30.0
RETRY_S = 5.0


class Reachability:
    """What the latest probe found. Safe to use from several threads."""

    def __init__(
        self, probe: Callable[[], float], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`probe` returns the milliseconds of a round trip, and raises OSError without one."""
        self._probe = probe
        self._now = now
        self._lock = threading.Lock()
        self._probed_at: float | None = None
        self._round_trip_ms: float | None = None
        self._running: threading.Thread | None = None

    def round_trip_ms(self) -> float | None:
        """The latest round trip; None when the cloud could not be reached."""
        with self._lock:
            if self._probed_at is None:
                self._look()
            elif self._is_old() and self._running is None:
                self._running = threading.Thread(target=self._refresh, daemon=True)
                self._running.start()
            return self._round_trip_ms

    def lost(self) -> None:
        """A request found no way to the cloud."""
        with self._lock:
            self._probed_at, self._round_trip_ms = self._now(), None

    def wait(self) -> None:
        """Wait for the probe that is running, if one is."""
        running = self._running
        if running is not None:
            running.join()

    def _is_old(self) -> bool:
        passed = self._now() - (self._probed_at or 0.0)
        return passed >= (RETRY_S if self._round_trip_ms is None else FRESH_S)

    def _refresh(self) -> None:
        self._look()
        self._running = None

    def _look(self) -> None:
        try:
            found = self._probe()
        except OSError:
            found = None
        self._round_trip_ms, self._probed_at = found, self._now()
