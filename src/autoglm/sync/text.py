"""Differences between texts and three-way merging, by words; no writer's word is lost.

Myers, "An O(ND) Difference Algorithm", 1986. Everything here must give the same result on every
device, so it depends on nothing but its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Words, runs of blanks, and single characters of everything else: Chinese is cut by character.
_TOKEN = re.compile(r"[A-Za-z0-9_]+|[ \t]+|.", re.DOTALL)
# Texts that differ in more tokens than this are merged as if the middle were replaced.
MAX_DISTANCE = 400


@dataclass(frozen=True, slots=True)
class Hunk:
    """Units `start` to `end` of the base are replaced by `new`."""

    start: int
    end: int
    new: tuple[str, ...]


def tokens(text: str) -> list[str]:
    """The units that merging neither cuts nor mixes."""
    return _TOKEN.findall(text)


def _common_prefix(a: Sequence[str], b: Sequence[str]) -> int:
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle)
    return low


def _frame(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """Lengths of what both begin and end with."""
    prefix = _common_prefix(a, b)
    suffix = _common_prefix(a[prefix:][::-1], b[prefix:][::-1])
    return prefix, suffix


def splice(old: str, new: str) -> tuple[int, int, str]:
    """The one replacement that turns `old` into `new`: position, characters removed, insertion."""
    prefix, suffix = _frame(old, new)
    return prefix, len(old) - prefix - suffix, new[prefix : len(new) - suffix]


def _middle_hunks(a: Sequence[str], b: Sequence[str]) -> list[Hunk] | None:
    """Myers' greedy search; None when more than MAX_DISTANCE edits are needed."""
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    for distance in range(min(len(a) + len(b), MAX_DISTANCE) + 1):
        trace.append(dict(furthest))
        for k in range(-distance, distance + 1, 2):
            is_down = k == -distance or (
                k != distance and furthest.get(k - 1, -1) < furthest.get(k + 1, -1)
            )
            x = furthest[k + 1] if is_down else furthest[k - 1] + 1
            y = x - k
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            furthest[k] = x
            if x >= len(a) and y >= len(b):
                return _backtrack(trace, a, b)
    return None


def _backtrack(trace: list[dict[int, int]], a: Sequence[str], b: Sequence[str]) -> list[Hunk]:
    x, y = len(a), len(b)
    edits: list[Hunk] = []
    for distance in range(len(trace) - 1, 0, -1):
        furthest = trace[distance]
        k = x - y
        is_down = k == -distance or (
            k != distance and furthest.get(k - 1, -1) < furthest.get(k + 1, -1)
        )
        before = k + 1 if is_down else k - 1
        x0 = furthest[before]
        y0 = x0 - before
        # The snake after the edit is common text; only the edit itself is a hunk.
        if is_down:
            edits.append(Hunk(x0, x0, (b[y0],)))
        else:
            edits.append(Hunk(x0, x0 + 1, ()))
        x, y = x0, y0
    return _joined(edits[::-1])


def _joined(edits: list[Hunk]) -> list[Hunk]:
    hunks: list[Hunk] = []
    for edit in edits:
        if hunks and hunks[-1].end == edit.start:
            last = hunks.pop()
            edit = Hunk(last.start, edit.end, last.new + edit.new)
        hunks.append(edit)
    return hunks


def diff(a: Sequence[str], b: Sequence[str]) -> list[Hunk]:
    """Hunks that turn `a` into `b`, in order and apart from each other."""
    prefix, suffix = _frame(a, b)
    old, new = a[prefix : len(a) - suffix], b[prefix : len(b) - suffix]
    if not old and not new:
        return []
    hunks = _middle_hunks(old, new) or [Hunk(0, len(old), tuple(new))]
    return [Hunk(h.start + prefix, h.end + prefix, h.new) for h in hunks]


def _apply(base: Sequence[str], hunks: Sequence[Hunk], start: int, end: int) -> list[str]:
    """What `start` to `end` of the base become."""
    out: list[str] = []
    for hunk in hunks:
        out += base[start : hunk.start]
        out += hunk.new
        start = hunk.end
    return out + list(base[start:end])


def _both(first: list[str], second: list[str]) -> list[str]:
    """Two versions of one region: what they share once, then the rest of both."""
    if first == second:
        return first
    prefix, suffix = _frame(first, second)
    middle = first[prefix : len(first) - suffix] + second[prefix : len(second) - suffix]
    return first[:prefix] + middle + first[len(first) - suffix :]


def merge(base: str, first: str, second: str) -> str:
    """The changes of both texts to `base`; where they meet, the first's come first."""
    if first in (base, second):
        return second
    if second == base:
        return first
    units = tokens(base)
    left, right = diff(units, tokens(first)), diff(units, tokens(second))
    out: list[str] = []
    position = 0
    while left or right:
        start, end, mine = _take_region(left, right)
        out += units[position:start]
        versions = [_apply(units, taken, start, end) for taken in mine if taken]
        out += versions[0] if len(versions) == 1 else _both(versions[0], versions[1])
        position = end
    return "".join(out + units[position:])


def _take_region(
    left: list[Hunk], right: list[Hunk]
) -> tuple[int, int, tuple[list[Hunk], list[Hunk]]]:
    """Take the next hunks that overlap each other, or are put in at the same place."""
    start, end = min((queue[0].start, queue[0].end) for queue in (left, right) if queue)
    mine: tuple[list[Hunk], list[Hunk]] = ([], [])
    is_growing = True
    while is_growing:
        is_growing = False
        for queue, taken in zip((left, right), mine, strict=True):
            while queue and (queue[0].start < end or _span(queue[0]) == (start, end)):
                taken.append(queue.pop(0))
                end = max(end, taken[-1].end)
                is_growing = True
    return start, end, mine


def _span(hunk: Hunk) -> tuple[int, int]:
    return hunk.start, hunk.end


def union(first: str, second: str) -> str:
    """Both texts merged without a common base: what they share once, and the rest of both."""
    a, b = tokens(first), tokens(second)
    shared: list[str] = []
    position = 0
    for hunk in diff(a, b):
        shared += a[position : hunk.start]
        position = hunk.end
    return merge("".join(shared + a[position:]), first, second)
