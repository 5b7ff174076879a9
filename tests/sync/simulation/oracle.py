"""What must be true at the end: it knows every acknowledged write and what its author had seen.

Independent of the code under test: writes are told apart by their stamps, which the simulator makes
unique, and the expected state is plain set arithmetic over them.
"""

from collections import Counter
from dataclasses import dataclass, field

Stamp = int


@dataclass(slots=True)
class Write:
    """One write a device confirmed. `seen` are the stamps that its author saw in the cell."""

    stamp: Stamp
    device: int
    seen: frozenset[Stamp]
    is_tombstone: bool
    words: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    delta: int = 0


@dataclass(slots=True)
class Oracle:
    """Every write, which of them the hub took, and those that only a lost timeline knew."""

    writes: dict[Stamp, Write] = field(default_factory=dict)
    at_hub: set[Stamp] = field(default_factory=set)
    destroyed: set[Stamp] = field(default_factory=set)
    may_return: Counter[Stamp] = field(default_factory=Counter)

    def accept(self, stamp: Stamp) -> None:
        """The hub took a write, and with it what its author had replaced before sending it."""
        self.at_hub |= self._with_replaced(stamp)

    def restore(self, stamps: set[Stamp]) -> None:
        """These writes are on a device again, which cannot know whether they were sent."""
        for stamp in stamps:
            self.may_return.update(self._with_replaced(stamp))

    def _with_replaced(self, stamp: Stamp) -> set[Stamp]:
        found: set[Stamp] = set()
        todo = [stamp]
        while todo:
            current = todo.pop()
            if current in self.writes and current not in found:
                found.add(current)
                todo += self.writes[current].seen
        return found

    def effective(self) -> dict[Stamp, Write]:
        """Writes that a restored backup did not take away before they reached the hub."""
        gone = self.destroyed - self.at_hub
        return {stamp: write for stamp, write in self.writes.items() if stamp not in gone}

    def check_live(self, live: set[Stamp]) -> list[str]:
        """Compare the values that are left with those that must and those that may be."""
        writes = self.effective()
        replaced = {stamp for write in writes.values() for stamp in write.seen}
        values = {stamp for stamp, write in writes.items() if not write.is_tombstone}
        faults = []
        if lost := values - replaced - live:
            faults.append(f"{len(lost)} acknowledged writes lost")
        if returned := (live & replaced) - set(self.may_return):
            faults.append(f"{len(returned)} replaced or erased writes came back")
        if unknown := live - set(self.writes):
            faults.append(f"{len(unknown)} values that nobody wrote")
        return faults

    def check_count(self, count: int) -> list[str]:
        """A counter is the sum of what was added; what a backup held may count again."""
        writes = self.effective()
        low = sum(write.delta for write in writes.values())
        returned = ((self.writes[s].delta, n) for s, n in self.may_return.items())
        high = low + sum(delta * times for delta, times in returned)
        return [] if low <= count <= high else [f"counter is {count}, not {low} to {high}"]

    def check_words(self, text: str) -> list[str]:
        """Every word that was put into the text and that nobody took out is in it."""
        writes = self.effective().values()
        removed = {word for write in writes for word in write.removed}
        lost = [w for write in writes for w in write.words - removed if w not in text]
        return [f"{len(lost)} words lost from a text"] if lost else []
