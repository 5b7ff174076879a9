"""Who may run: a number of slots, a bounded queue before them, and refusals that come at once.

Waiting requests are served by priority, then in the order in which they came.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from autoglm.serve.errors import BusyError, DeadlineError

FIRST_GUESS_S = 2.0  # how long a request takes, before one was seen
_MEMORY = 0.8


@dataclass(order=True)
class _Ticket:
    priority: int
    number: int
    weight: int = field(compare=False)
    is_called: asyncio.Future[None] = field(compare=False)


class Admission:
    """Hands out slots; a request with several answers takes several. For one event loop."""

    def __init__(self, num_slots: int, max_waiting: int) -> None:
        self.num_slots = num_slots
        self.max_waiting = max_waiting
        self.num_running = 0
        self._waiting: list[_Ticket] = []
        self._numbers = itertools.count()
        self._usual_s = FIRST_GUESS_S

    @property
    def num_waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Raise BusyError when the next request would find no slot and no place to wait."""
        is_taken = bool(self._waiting) or self.num_running >= self.num_slots
        if is_taken and len(self._waiting) >= self.max_waiting:
            raise self._busy()

    def resize(self, num_slots: int, max_waiting: int) -> None:
        """Change the limits; what runs and waits stays."""
        self.num_slots = num_slots
        self.max_waiting = max_waiting
        self._call()

    @asynccontextmanager
    async def slot(
        self, *, weight: int = 1, priority: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[None]:
        """Hold `weight` slots; the lower the `priority`, the sooner.

        Raises BusyError at once when the queue is full, DeadlineError after `timeout_s`.
        """
        weight = min(weight, self.num_slots)
        if self._waiting or self.num_running + weight > self.num_slots:
            await self._wait(weight, priority, timeout_s)
        else:
            self.num_running += weight
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._usual_s = _MEMORY * self._usual_s + (1 - _MEMORY) * seconds
            self.num_running -= weight
            self._call()

    async def _wait(self, weight: int, priority: int, timeout_s: float | None) -> None:
        if len(self._waiting) >= self.max_waiting:
            raise self._busy()
        is_called = asyncio.get_running_loop().create_future()
        ticket = _Ticket(priority, next(self._numbers), weight, is_called)
        heapq.heappush(self._waiting, ticket)
        try:
            await asyncio.wait_for(is_called, timeout_s)
        except BaseException as err:
            self._leave(ticket)
            if not isinstance(err, TimeoutError):
                raise
            message = f"the request waited for its whole time of {timeout_s:.1f} s"
            raise DeadlineError(message) from err

    def _busy(self) -> BusyError:
        message = f"{self.num_running} requests run and {len(self._waiting)} wait; try again later"
        return BusyError(message, self._usual_s * (1 + len(self._waiting) / self.num_slots))

    def _leave(self, ticket: _Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            heapq.heapify(self._waiting)
        elif ticket.is_called.done() and not ticket.is_called.cancelled():
            self.num_running -= ticket.weight  # called in the moment in which it gave up
        self._call()

    def _call(self) -> None:
        while self._waiting and self.num_running + self._waiting[0].weight <= max(
            self.num_slots, self._waiting[0].weight
        ):
            ticket = heapq.heappop(self._waiting)
            if not ticket.is_called.done():
                self.num_running += ticket.weight
                ticket.is_called.set_result(None)
