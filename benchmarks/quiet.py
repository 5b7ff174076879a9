"""How much processor time other programs took while something was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from autoglm.hardware.process import busy_seconds

T = TypeVar("T")

MAX_OTHER_CPUS = 0.1
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Quiet(Generic[T]):
    """A value, and how many processors others kept busy meanwhile."""

    value: T
    other_cpus: float

    @property
    def is_quiet(self) -> bool:
        """Whether the value counts."""
        return self.other_cpus <= MAX_OTHER_CPUS


def measured(work: Callable[[], T], *, attempts: int) -> Quiet[T]:
    """Do the work until a run was quiet, at most `attempts` times; the quietest run counts."""
    best: Quiet[T] | None = None
    for _ in range(attempts):
        run = _once(work)
        if best is None or run.other_cpus < best.other_cpus:
            best = run
        if best.is_quiet:
            break
    if best is None:
        message = "attempts must be at least 1"
        raise ValueError(message)
    return best


def _once(work: Callable[[], T]) -> Quiet[T]:
    start, busy, own = time.monotonic(), busy_seconds(TICKS_PER_SECOND), _own_seconds()
    value = work()
    wall = time.monotonic() - start
    others = (busy_seconds(TICKS_PER_SECOND) or 0.0) - (busy or 0.0) - (_own_seconds() - own)
    return Quiet(value, max(0.0, others) / wall)


def _own_seconds() -> float:
    """Processor time of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
