"""Dotted versions of a cell: which write it is, and which writes its author had seen.

Preguica et al., "Dotted Version Vectors", 2010. A cell is the smallest thing that is written as
one: a field, an element of a set, one device's share of a counter. Writes that do not know each
other stand side by side as siblings, at most one for each concurrent author.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# The author's number and how many writes it had made.
Dot = tuple[int, int]
# For each author, the last write that is known; all earlier ones are known too.
Vector = Mapping[int, int]
# The same for one cell, sorted by author.
Context = tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Version:
    """One write of one cell. `needs` is the version that the payload is a difference to.

    Versions of one author that are sealed together have the same payload and `is_shared`.
    """

    dot: Dot
    cell: bytes
    context: Context
    stamp: int
    payload: bytes
    is_tombstone: bool = False
    needs: Dot | None = None
    is_shared: bool = False

    @property
    def order(self) -> tuple[int, Dot]:
        """Siblings in one order on every device: by clock, then by author."""
        return self.stamp, self.dot


def covers(context: Context, dot: Dot) -> bool:
    """Whether the author of `context` had seen `dot`."""
    author, counter = dot
    return any(actor == author and last >= counter for actor, last in context)


def context_of(versions: Iterable[Version]) -> Context:
    """What somebody knows who has seen `versions`."""
    known: dict[int, int] = {}
    for version in versions:
        for actor, counter in (*version.context, version.dot):
            if counter > known.get(actor, 0):
                known[actor] = counter
    return tuple(sorted(known.items()))


def needed(live: Iterable[Version], others: Mapping[Dot, Version]) -> set[Dot]:
    """The dots that `live` is built on, directly or through `others`."""
    found: set[Dot] = set()
    for version in live:
        dot = version.needs
        while dot is not None and dot not in found:
            found.add(dot)
            dot = others[dot].needs if dot in others else None
    return found
