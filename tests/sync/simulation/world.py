"""A simulated world: devices, a hub, the network between them, clocks and disasters, from one seed.

Everything happens in one thread in the order of a heap of events, so a seed repeats exactly.
"""

import heapq
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.sync.simulation.disk import CrashError, Disk
from tests.sync.simulation.oracle import Oracle, Write

from autoglm.errors import StorageError, SyncError
from autoglm.sync.clock import HybridClock
from autoglm.sync.hub import MemoryHub
from autoglm.sync.messages import Request, Response
from autoglm.sync.records import Records
from autoglm.sync.version import Version

MAX_WRITERS = 64
TIMEOUT_MS = 2_000
MAX_BACKOFF_MS = 8_000
CHAOS_MS = 20_000
HEAL_MS = 30_000
RECORDS = ("a", "b")
WORD = re.compile(r"w\d+x\d+e")
REGISTERS = ("title", "state")


class SimulatedClock(HybridClock):
    """Stamps that are different for every writer, so that the oracle can tell writes apart."""

    def __init__(self, now_ms: Callable[[], int], writer: int) -> None:
        super().__init__(now_ms)
        self._writer = writer

    def tick(self) -> int:
        """The next stamp that is the writer's number modulo MAX_WRITERS."""
        stamp = super().tick()
        self.stamp = stamp + (self._writer - stamp) % MAX_WRITERS
        return self.stamp


@dataclass(frozen=True, slots=True)
class Faults:
    """Rates of what goes wrong while the chaos lasts."""

    drop: float
    duplicate: float
    crash: float
    full: float
    disaster: float

    @staticmethod
    def draw(rng: random.Random) -> "Faults":
        """A mixture: many seeds are harmless in most ways, so that each fault is seen alone too."""

        def rate(most: float) -> float:
            return rng.choice((0.0, most / 3, most))

        return Faults(rate(0.4), rate(0.3), rate(0.06), rate(0.05), rate(0.12))


class Node:
    """One device: its disk, the process on it, and its connection."""

    def __init__(self, world: "World", index: int) -> None:
        self.world = world
        self.index = index
        self.disk = Disk(random.Random(world.rng.random()), is_durable=world.is_durable)
        self.skew_ms = world.rng.choice((0, 0, 1, -1)) * world.rng.randrange(10 * 365 * 86_400_000)
        self.is_cut = [False, False]  # to the hub, from the hub
        self.backup = self.disk.image()
        self.since_backup: set[int] = set()
        self.attempt = 0
        self.backoff_ms = 500
        self.start(index)

    def start(self, writer: int) -> None:
        """A fresh process over the disk."""
        clock = SimulatedClock(lambda: max(0, self.world.now + self.skew_ms + 2**50), writer)
        rates = self.disk.crash_rate, self.disk.full_rate
        self.disk.crash_rate = self.disk.full_rate = 0.0
        self.writer = writer
        rng = random.Random(self.world.rng.random())
        self.records = Records(self.disk, b"index", clock=clock, rng=rng)
        self.disk.crash_rate, self.disk.full_rate = rates

    def crash(self) -> None:
        """Lose the process and what was not durable."""
        self.disk.lose_power()
        self.start(self.writer)
        self.world.after(self.world.rng.randrange(100, 1000), self.talk)

    def do(self, action: Callable[[], object]) -> bool:
        """Run something on the device; False if it failed or crashed."""
        try:
            action()
        except StorageError:
            return False
        except CrashError:
            self.crash()
            return False
        return True

    def talk(self) -> None:
        """Send the next half of a round, and try again later if no answer comes."""
        self.attempt += 1
        attempt = self.attempt
        requests: list[Request] = []
        self.do(lambda: requests.append(self.records.request()))
        for request in requests:
            self.world.send(self, 0, partial(self.world.serve, self, request))

        def again() -> None:
            if self.attempt == attempt:
                self.backoff_ms = min(MAX_BACKOFF_MS, self.backoff_ms * 2)
                self.talk()

        self.world.after(TIMEOUT_MS + self.world.rng.randrange(self.backoff_ms), again)

    def hear(self, response: Response) -> None:
        """Take an answer in, and go on while there is something to say."""
        process = self.records

        def receive() -> None:
            received = process.receive(response)
            if not received.is_stale:
                self.attempt += 1
                self.backoff_ms = 500
                wait = self.world.rng.randrange(500, 2000) if received.is_idle else 0
                self.world.after(wait, self.talk)

        self.do(receive)

    def restore(self) -> None:
        """Put the backup back in place of the disk."""
        lost = self.since_backup - self.world.oracle.at_hub
        self.world.oracle.destroyed |= lost
        self.disk.restore(self.backup)
        self.world.oracle.restore({row.version.stamp for row in self.backup[0].values()})
        self.since_backup = set()
        self.world.num_writers += 1
        self.start(self.world.num_writers)
        self.world.after(self.world.rng.randrange(100, 5000), self.talk)


class World:
    """Devices and a hub under one seed; `run` returns what was wrong."""

    def __init__(
        self,
        seed: int,
        *,
        hub: type[MemoryHub] = MemoryHub,
        is_durable: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.is_durable = is_durable
        self.faults = Faults.draw(self.rng)
        self.oracle = Oracle()
        self.hub = hub(page_versions=self.rng.choice((1, 3, 1000)))
        self.num_events = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._is_healed = False
        num_nodes = self.rng.choice((2, 3, 3, 4))
        self.num_writers = num_nodes
        self.nodes = [Node(self, index) for index in range(num_nodes)]

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do something later."""
        self.num_events += 1
        heapq.heappush(self._events, (self.now + delay_ms, self.num_events, action))

    def send(self, node: Node, way: int, deliver: Callable[[], None]) -> None:
        """Hand a message to the network, which may lose, repeat, delay and reorder it."""
        if node.is_cut[way] or self.rng.random() < self.faults.drop:
            return
        self.after(self.rng.randrange(5, 300), deliver)
        if self.rng.random() < self.faults.duplicate:
            self.after(self.rng.randrange(5, 9000), deliver)

    def serve(self, node: Node, request: Request) -> None:
        """The hub answers, unless it crashes before or after it has stored the push."""
        is_crashing = self.rng.random() < self.faults.crash
        if is_crashing and self.rng.random() < 0.5:
            return
        pushed = request.push
        before = self.hub.vector.get(request.actor, 0)
        response = self.hub.serve(request, self.now)
        if pushed is not None and self.hub.vector.get(request.actor, 0) > before:
            for version in pushed.versions:
                self.oracle.accept(version.stamp)
        if not is_crashing:
            self.send(node, 1, lambda: node.hear(response))

    def act(self, node: Node) -> None:
        """One write of one device, of any kind."""
        record = self.rng.choice(RECORDS)
        kind = self.rng.randrange(8)
        records = node.records
        word = f"w{len(self.oracle.writes)}x{self.now}e"
        if kind < 2:
            self.write(node, lambda: records.put(record, self.rng.choice(REGISTERS), word))
        elif kind == 2:
            self.write(node, lambda: records.add(record, "tags", self.rng.choice("xyz")))
        elif kind == 3:
            self.write(node, lambda: records.remove(record, "tags", self.rng.choice("xyz")))
        elif kind == 4:
            delta = self.rng.randrange(1, 100)
            self.write(node, lambda: records.increment("counts", "n", delta), delta=delta)
        elif kind < 7:
            self.write_text(node, word)
        else:
            self.write(node, lambda: records.erase(record))

    def write_text(self, node: Node, word: str) -> None:
        """Put a word somewhere into the text, and sometimes take one out."""
        text = node.records.get("doc").get("body") or ""
        # Words that two devices put in at the same place may stand without a blank.
        words = WORD.findall(str(text))
        removed: frozenset[str] = frozenset()
        if words and self.rng.random() < 0.3:
            removed = frozenset({words.pop(self.rng.randrange(len(words)))})
        words.insert(self.rng.randrange(len(words) + 1), word)
        self.write(
            node,
            lambda: node.records.write_text("doc", "body", " ".join(words)),
            words=frozenset({word}),
            removed=removed,
        )

    def write(
        self,
        node: Node,
        action: Callable[[], object],
        *,
        delta: int = 0,
        words: frozenset[str] = frozenset(),
        removed: frozenset[str] = frozenset(),
    ) -> None:
        """Do a write and tell the oracle about it. One that crashed counts if it is on the disk."""
        before = live_values(node, tombstones=True)
        is_done = node.do(lambda: _unless_incomplete(action))
        after = live_values(node, tombstones=True)
        stamps = {version.stamp for version in before.values()}
        # A crash loses nothing that was acknowledged, and here the disk tells what was written.
        for version in after.values():
            if version.stamp in stamps or version.stamp in self.oracle.writes:
                continue
            seen = frozenset(v.stamp for v in before.values() if v.cell == version.cell)
            self.oracle.writes[version.stamp] = Write(
                version.stamp, node.index, seen, version.is_tombstone, words, removed, delta
            )
            node.since_backup.add(version.stamp)
        if is_done:
            node.attempt += 1
            self.after(self.rng.randrange(300), node.talk)

    def disaster(self) -> None:
        """A crash, a cut, a jump of a clock, a backup or its return, or forgotten tombstones."""
        node = self.rng.choice(self.nodes)
        kind = self.rng.randrange(7)
        if kind == 0:
            node.crash()
        elif kind == 1:
            node.is_cut = [self.rng.random() < 0.6, self.rng.random() < 0.6]
        elif kind == 2:
            node.is_cut = [False, False]
        elif kind == 3:
            node.skew_ms += self.rng.randrange(-(10**12), 10**12)
        elif kind == 4:
            node.backup, node.since_backup = node.disk.image(), set()
        elif kind == 5 and self.num_writers < MAX_WRITERS - 1:
            node.restore()
        else:
            self.hub.collect(self.now - self.rng.randrange(5_000))

    def run(self) -> list[str]:
        """Chaos, then peace; returns the faults found."""
        for node in self.nodes:
            self.after(self.rng.randrange(1000), node.talk)
        for _ in range(self.rng.randrange(20, 50)):
            node = self.rng.choice(self.nodes)
            self.after(self.rng.randrange(CHAOS_MS), lambda node=node: self.act(node))
        for _ in range(int(100 * self.faults.disaster)):
            self.after(self.rng.randrange(CHAOS_MS), self.disaster)
        for node in self.nodes:
            node.disk.crash_rate, node.disk.full_rate = self.faults.crash, self.faults.full
        self._play(CHAOS_MS)
        self.faults = Faults(0.0, 0.0, 0.0, 0.0, 0.0)
        for node in self.nodes:
            node.disk.crash_rate = node.disk.full_rate = 0.0
            node.is_cut = [False, False]
        self._play(CHAOS_MS + HEAL_MS)
        return self.check()

    def _play(self, until_ms: int) -> None:
        while self._events and self._events[0][0] <= until_ms:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = until_ms

    def check(self) -> list[str]:
        """Compare devices, hub and oracle."""
        faults = []
        at_hub = {v.stamp for v in self.hub.live().values() if not v.is_tombstone}
        for node in self.nodes:
            if node.records.device.num_unsent:
                faults.append(f"device {node.index} is stuck with unsent writes")
            live = {v.stamp for v in live_values(node).values()}
            if live != at_hub:
                faults.append(f"device {node.index} differs from the hub")
        views = [{name: n.records.get(name) for name in n.records.names()} for n in self.nodes]
        if any(view != views[0] for view in views):
            faults.append("devices show different records")
        faults += self.oracle.check_live(at_hub)
        faults += self.oracle.check_count(int(str(views[0].get("counts", {}).get("n", 0))))
        faults += self.oracle.check_words(str(views[0].get("doc", {}).get("body", "")))
        return faults


def live_values(node: Node, *, tombstones: bool = False) -> dict[tuple[int, int], Version]:
    """The live versions on a device's disk."""
    rows = node.disk.image()[0]
    return {
        dot: row.version
        for dot, row in rows.items()
        if row.is_live and (tombstones or not row.version.is_tombstone)
    }


def _unless_incomplete(action: Callable[[], object]) -> None:
    """Skip a text edit while a part of the text is still to come."""
    try:
        action()
    except SyncError:
        return
