"""The device's side of synchronisation: a state machine over a Store, without network or threads.

`write` is durable when it returns. A driver carries `request()` to the hub and gives the answer to
`receive()`, again and again; it may lose, repeat or delay both at any point.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from autoglm.sync.clock import HybridClock
from autoglm.sync.messages import Push, Request, Response
from autoglm.sync.state import DeviceState
from autoglm.sync.store import Row, Store
from autoglm.sync.version import Context, Dot, Version, context_of, covers, needed

PUSH_VERSIONS = 10_000
UNKNOWN_ACTOR = 0


class Payloads(Protocol):
    """What only the owner of the payloads can do for the device."""

    def inlined(self, version: Version) -> Version:
        """The same version with its base in the payload, so that it needs no other."""

    def moved(self, version: Version, actor: int) -> Version:
        """The same write for a device with another number."""


@dataclass(frozen=True, slots=True)
class Received:
    """The cells that a response changed. `is_idle` means that there is nothing left to say."""

    cells: frozenset[bytes] = frozenset()
    is_idle: bool = False
    is_stale: bool = False


class Device:
    """One device's replica. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        store: Store,
        payloads: Payloads,
        *,
        clock: HybridClock,
        rng: random.Random,
        push_versions: int = PUSH_VERSIONS,
    ) -> None:
        """Continue from what `store` holds. `rng` chooses identities: seed it from the system."""
        self._store = store
        self._payloads = payloads
        self._rng = rng
        self._push_versions = push_versions
        self._state = DeviceState.decode(store.load_state())
        self._clock = clock
        clock.observe(self._state.stamp)
        # An answer to a process that is gone must not look like one to this process.
        self._round = rng.getrandbits(62)

    @property
    def state(self) -> DeviceState:
        """What is stored beside the versions."""
        return self._state

    @property
    def num_unsent(self) -> int:
        """How many writes the hub has not confirmed, at most."""
        return self._state.counter - self._state.acked

    def cells(self) -> list[bytes]:
        """Every cell with something in it."""
        return self._store.cells()

    def siblings(self, cell: bytes) -> list[Version]:
        """The cell's live versions, tombstones too, the winner by clock last."""
        live = (row.version for row in self._store.cell(cell) if row.is_live)
        return sorted(live, key=lambda version: version.order)

    def bases(self, cell: bytes) -> dict[Dot, Version]:
        """All versions of a cell, also those that others are only built on."""
        return {row.version.dot: row.version for row in self._store.cell(cell)}

    def is_sent(self, version: Version) -> bool:
        """Whether the version may have left the device."""
        actor, counter = version.dot
        return actor != self._state.actor or counter <= max(self._state.acked, self._state.upto)

    def write(self, cell: bytes, payload: bytes, *, needs: Dot | None = None) -> Version:
        """Replace everything that is known in a cell. Raises StorageError: nothing is written."""
        with self._transaction():
            return self._write(cell, payload, needs=needs, is_tombstone=False)

    def erase(self, cells: list[bytes]) -> None:
        """Replace everything that is known in the cells by nothing."""
        with self._transaction():
            for cell in cells:
                if any(not version.is_tombstone for version in self.siblings(cell)):
                    self._write(cell, b"", needs=None, is_tombstone=True)

    def _write(
        self, cell: bytes, payload: bytes, *, needs: Dot | None, is_tombstone: bool
    ) -> Version:
        state = self._state
        siblings = self.siblings(cell)
        context = context_of(siblings)
        if len(siblings) == 1 and not self.is_sent(siblings[0]):
            # Nobody has seen the version that is replaced: it might not have been.
            context = siblings[0].context
            self._store.delete(siblings[0].dot)
        self._state = replace(state, counter=state.counter + 1, stamp=self._clock.tick())
        version = Version(
            (state.actor, state.counter + 1),
            cell,
            context,
            self._clock.stamp,
            payload,
            is_tombstone,
            needs,
        )
        self._apply(version)
        return version

    def request(self) -> Request:
        """The next thing to say. It is new versions, and what this device knows."""
        self._round += 1
        state = self._state
        if state.actor == UNKNOWN_ACTOR:
            if not state.enrolment:
                with self._transaction():
                    self._state = replace(state, enrolment=self._rng.getrandbits(63) | 1)
            return Request(self._round, UNKNOWN_ACTOR, self._state.enrolment, 0, 0, {})
        if state.upto <= state.acked < state.counter:
            self._open_batch()
        return Request(
            self._round,
            state.actor,
            state.enrolment,
            state.epoch,
            state.acked,
            dict(state.vector),
            self._push(),
            self._wanted(),
        )

    def _open_batch(self) -> None:
        """Fix the end of the next push before it is sent: a repeated one must end there too."""
        state = self._state
        rows = self._store.pending(state.actor, state.acked, self._push_versions + 1)
        is_all = len(rows) <= self._push_versions
        upto = state.counter if is_all else rows[self._push_versions - 1].version.dot[1]
        with self._transaction():
            self._state = replace(state, upto=upto, batch=self._rng.getrandbits(32))

    def _push(self) -> Push | None:
        state = self._state
        if state.upto <= state.acked:
            return None
        rows = self._store.pending(state.actor, state.acked, self._push_versions)
        versions = (row.version for row in rows if row.version.dot[1] <= state.upto)
        return Push(state.batch, state.upto, tuple(versions))

    def _wanted(self) -> tuple[Dot, ...]:
        return self._state.wanted

    def receive(self, response: Response) -> Received:
        """Take in the answer to the latest request; an answer to an earlier one is ignored.

        Raises StorageError and then knows what it knew before, so the round can be repeated.
        """
        if response.round != self._round:
            return Received(is_stale=True)
        self._round += 1
        with self._transaction():
            return self._receive(response)

    def _receive(self, response: Response) -> Received:
        if response.is_forked:
            self._state = replace(self._state, enrolment=0)
            self._renumber(UNKNOWN_ACTOR)
            return Received()
        if self._state.actor == UNKNOWN_ACTOR:
            self._renumber(response.actor)
            return Received()
        if response.inline:
            for dot in response.inline:
                self._inline(dot)
            return Received()
        self._confirm(response.acked)
        if response.epoch > self._state.epoch:
            self._start_over(response.epoch)
            return Received()
        asked, swept = self._state.wanted, frozenset[bytes]()
        for version in response.versions:
            self._take(version)
        self._state = replace(self._state, vector=_joined(self._state.vector, response.vector))
        if not response.more:
            # The hub would have sent them: what they are bases of is gone there. One that came too
            # early, before what is built on it, is asked for again.
            gone = set(asked) - {version.dot for version in response.versions}
            lacking = set(self._state.wanted) - gone
            self._state = replace(self._state, wanted=tuple(sorted(lacking)))
        if not response.more and self._state.resync_from is not None:
            swept = self._sweep()
        is_idle = not response.more and not self.num_unsent and not self._state.wanted
        return Received(frozenset(v.cell for v in response.versions) | swept, is_idle)

    def _take(self, version: Version) -> None:
        """Store one version of the hub unless it is known."""
        state = self._state
        self._clock.observe(version.stamp)
        self._state = replace(state, stamp=self._clock.stamp)
        actor, counter = version.dot
        is_known = counter <= state.vector.get(actor, 0)
        if not is_known or version.dot in state.wanted:
            self._apply(version, is_base=is_known)

    def _apply(self, version: Version, *, is_base: bool = False) -> None:
        """Put a version among its siblings; what it has seen goes, and what saw it hides it."""
        rows = {row.version.dot: row for row in self._store.cell(version.cell)}
        live = [row.version for row in rows.values() if row.is_live]
        is_hidden = is_base or any(covers(other.context, version.dot) for other in live)
        if version.dot in rows:
            is_hidden = not rows[version.dot].is_live
        rows[version.dot] = Row(version, not is_hidden, self._state.generation)
        if not is_hidden:
            rows = {
                dot: replace(row, is_live=False) if covers(version.context, dot) else row
                for dot, row in rows.items()
            }
        self._store_cell(version.cell, rows)

    def _store_cell(self, cell: bytes, rows: dict[Dot, Row]) -> None:
        """Write the rows that changed; drop those nobody needs, and ask for bases that lack."""
        before = {row.version.dot: row for row in self._store.cell(cell)}
        kept = [r.version for dot, r in rows.items() if r.is_live or self._is_in_flight(dot)]
        bases = needed(kept, {dot: row.version for dot, row in rows.items()})
        kept_dots = bases | {version.dot for version in kept}
        for dot, row in rows.items():
            if dot not in kept_dots:
                if dot in before:
                    self._store.delete(dot)
            elif before.get(dot) != row:
                self._store.put(row)
        wanted = (set(self._state.wanted) | bases) - set(rows)
        if wanted != set(self._state.wanted):
            self._state = replace(self._state, wanted=tuple(sorted(wanted)))

    def _is_in_flight(self, dot: Dot) -> bool:
        """Whether the version is in a batch that was opened: a repeated one must not lack it."""
        actor, counter = dot
        return actor == self._state.actor and self._state.acked < counter <= self._state.upto

    def _confirm(self, acked: int) -> None:
        """Note how far the hub is, and drop what was kept for repeating the push."""
        state = self._state
        if acked <= state.acked:
            return
        self._state = replace(state, acked=acked)
        for row in self._store.pending(state.actor, state.acked, acked - state.acked):
            if not row.is_live and row.version.dot[1] <= acked:
                rows = {r.version.dot: r for r in self._store.cell(row.version.cell)}
                self._store_cell(row.version.cell, rows)

    def _inline(self, dot: Dot) -> None:
        """Make a pending version independent of its base, which the hub no longer has."""
        for row in self._store.pending(dot[0], dot[1] - 1, 1):
            version = row.version
            if version.dot != dot or version.needs is None:
                continue
            rows = {r.version.dot: r for r in self._store.cell(version.cell)}
            rows[dot] = replace(row, version=self._payloads.inlined(version))
            self._store_cell(version.cell, rows)

    def _start_over(self, epoch: int) -> None:
        """Read everything anew; what is not confirmed by the end is gone at the hub."""
        state = self._state
        self._state = replace(
            state,
            epoch=epoch,
            vector={},
            generation=state.generation + 1,
            resync_from=state.acked,
            wanted=(),
        )

    def _sweep(self) -> frozenset[bytes]:
        """Forget what reading everything anew has not confirmed; returns the cells it was in."""
        state = self._state
        cells: set[bytes] = set()
        for row in self._store.stale(state.generation):
            actor, counter = row.version.dot
            if actor == state.actor and counter > (state.resync_from or 0):
                continue
            cells.add(row.version.cell)
            rows = {r.version.dot: r for r in self._store.cell(row.version.cell)}
            if row.version.dot in rows:
                rows[row.version.dot] = replace(row, is_live=False, generation=state.generation)
                self._store_cell(row.version.cell, rows)
        self._state = replace(self._state, resync_from=None)
        return frozenset(cells)

    def _renumber(self, actor: int) -> None:
        """Take another number; writes the hub does not have become its writes, in their order."""
        state = self._state
        old, acked = state.actor, state.acked
        pending = self._store.pending(old, acked, state.counter)
        by_dot = {row.version.dot: row.version for row in pending}
        bases = needed((row.version for row in pending if row.is_live), by_dot)
        for dot in by_dot:
            self._store.delete(dot)
        rows = [row for row in pending if row.is_live or row.version.dot in bases]
        dots: dict[Dot, Dot] = {row.version.dot: (actor, n) for n, row in enumerate(rows, start=1)}
        self._state = replace(state, actor=actor, counter=len(rows), acked=0, upto=0, batch=0)
        self._start_over(0)
        for row in rows:
            version = self._payloads.moved(row.version, actor)
            moved = replace(
                version,
                dot=dots[row.version.dot],
                context=_moved_context(version.context, dots, (old, acked), actor),
                needs=dots.get(version.needs, version.needs) if version.needs else None,
            )
            self._store.put(Row(moved, row.is_live, self._state.generation))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One transaction of rows and state; a failed one is as if it had not begun."""
        before = self._state
        try:
            with self._store.transaction():
                yield
                if self._state is not before:
                    self._store.save_state(self._state.encode())
        except BaseException:
            self._state = DeviceState.decode(self._store.load_state())
            raise


def _moved_context(context: Context, dots: dict[Dot, Dot], seen: Dot, actor: int) -> Context:
    """What a context means once the writes of an author above `seen` have become `actor`'s."""
    old, acked = seen
    moved = dict(context)
    last = moved.get(old, 0)
    if last <= acked:
        return context
    del moved[old]
    if acked:
        moved[old] = acked
    num_moved = sum(1 for _, counter in dots if counter <= last)
    if num_moved:
        moved[actor] = num_moved
    return tuple(sorted(moved.items()))


def _joined(left: dict[int, int], right: dict[int, int]) -> dict[int, int]:
    return left | {a: c for a, c in right.items() if c > left.get(a, 0)}
