"""Hybrid logical clock: stamps near the wall clock that never run backwards.

Kulkarni et al., "Logical Physical Clocks", 2014. Stamps only order writes that do not know each
other: causality is in the versions, so a clock that is years off never hides a later write.
"""

from __future__ import annotations

from collections.abc import Callable

LOGICAL_BITS = 12


class HybridClock:
    """Stamps are milliseconds with `LOGICAL_BITS` bits of counter below them."""

    __slots__ = ("_now_ms", "stamp")

    def __init__(self, now_ms: Callable[[], int]) -> None:
        """`now_ms` is the wall clock."""
        self._now_ms = now_ms
        self.stamp = 0

    def tick(self) -> int:
        """A stamp above every one given out or seen."""
        self.stamp = max(self.stamp + 1, self._now_ms() << LOGICAL_BITS)
        return self.stamp

    def observe(self, stamp: int) -> None:
        """Later stamps will be above this one."""
        self.stamp = max(self.stamp, stamp)
