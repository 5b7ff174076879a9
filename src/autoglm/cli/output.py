"""Where a command writes: results on stdout, notes on stderr, progress there on a terminal only."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

PROGRESS_AFTER_S = 2.0
PROGRESS_EVERY_S = 0.1
BAR_WIDTH = 30


def print_text(text: str, *, end: str = "\n") -> None:
    """Write a result for a reader, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Write a result for a program: one JSON document on one line."""
    print_text(json.dumps(value, ensure_ascii=False, allow_nan=False))


def note(text: str, *, is_error: bool = False) -> None:
    """Write a line to stderr, in red on a terminal when it is an error."""
    if is_error and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        text = f"\x1b[31m{text}\x1b[0m"
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Progress:
    """A line on stderr that grows, for work of more than two seconds, when stderr is a terminal."""

    def __init__(
        self,
        label: str,
        *,
        total: int | None = None,
        unit: str = "",
        shows_time_left: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._shows_time_left = shows_time_left
        self._clock = clock
        self._is_shown = False
        self._is_terminal = sys.stderr.isatty()
        self._start = clock()
        self._next_draw = self._start + PROGRESS_AFTER_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def update(self, done: float) -> None:
        """Say how much is done; draws at most ten times a second."""
        if not self._is_terminal or self._clock() < self._next_draw:
            return
        self._next_draw = self._clock() + PROGRESS_EVERY_S
        self._is_shown = True
        sys.stderr.write(f"\r\x1b[K{self._label} {self._state(done)}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._is_shown = False

    def _state(self, done: float) -> str:
        if not self._total:
            return f"{int(done)} {self._unit}".rstrip()
        filled = int(BAR_WIDTH * min(done, self._total) / self._total)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        state = f"[{bar}] {int(done)}/{self._total} {self._unit}".rstrip()
        return f"{state}{self._time_left(done)}"

    def _time_left(self, done: float) -> str:
        if not self._shows_time_left or not self._total or done <= 0:
            return ""
        seconds = (self._clock() - self._start) * max(self._total - done, 0) / done
        minutes, seconds = divmod(round(seconds), 60)
        return f", {minutes}:{seconds:02d} left"
