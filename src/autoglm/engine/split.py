"""Cuts a long text into parts that fit a token budget, at the best place there is.

Speaker turns first, then paragraphs, lines, sentences, and characters as the last resort.
The parts joined are the text: nothing is dropped, nothing repeated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

CountTokens = Callable[[str], int]

# Longer texts are cut without counting them whole, which keeps memory bounded.
MAX_CHARS_PER_TOKEN = 32

# A search keeps the interpreter for itself, so it looks at so much at a time.
SEARCHED_CHARS = 2**16
# How far the patterns look ahead.
_AHEAD = 64

# All match between characters.
_BREAKS = (
    re.compile(r"^(?=[^\s:：][^:：\n]{0,30}[:：])", re.MULTILINE),  # `名字：` or `Name:`
    re.compile(r"(?<=\n\n)(?!\n)"),
    re.compile(r"(?<=\n)"),
    re.compile(r"(?<=[。！？；])|(?<=[.!?;]\s)"),
    re.compile(r"(?<=[，、,\s])"),
)


def split_text(text: str, budget_tokens: int, count: CountTokens) -> list[str]:
    """Parts of about equal length, each of at most `budget_tokens` by `count`.

    A single character that needs more than the budget is a part of its own.
    """
    if not text:
        return []
    pieces = _pieces(text, budget_tokens, count, _BREAKS)
    sizes = [count(piece) for piece in pieces]
    parts: list[str] = []
    start, left = 0, sum(sizes)
    while start < len(pieces):
        target = left / max(1, math.ceil(left / budget_tokens))
        end, size = start + 1, sizes[start]
        while end < len(pieces) and size + sizes[end] <= budget_tokens:
            if size + sizes[end] / 2 > target:
                break
            size += sizes[end]
            end += 1
        # The sum is an estimate: tokens may form across a joint, so the whole is counted.
        while end > start + 1 and count("".join(pieces[start:end])) > budget_tokens:
            end -= max(1, (end - start) // 8)
        parts.append("".join(pieces[start:end]))
        left -= sum(sizes[start:end])
        start = end
    return parts


def _fits(text: str, budget_tokens: int, count: CountTokens) -> bool:
    return len(text) <= budget_tokens * MAX_CHARS_PER_TOKEN and count(text) <= budget_tokens


def _pieces(
    text: str, budget_tokens: int, count: CountTokens, breaks: Sequence[re.Pattern[str]]
) -> list[str]:
    """Pieces within the budget, cut at the first kind of break that gives any."""
    if _fits(text, budget_tokens, count):
        return [text]
    if not breaks:
        return _halves(text, budget_tokens, count)
    pieces: list[str] = []
    for piece in _cut(text, breaks[0]):
        pieces += _pieces(piece, budget_tokens, count, breaks[1:])
    return pieces


def _cut(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """As `pattern.split(text)`, without empty pieces."""
    start = 0
    for begin in range(0, len(text), SEARCHED_CHARS):
        end = min(len(text), begin + SEARCHED_CHARS)
        for match in pattern.finditer(text, begin, end + _AHEAD):
            if start < match.start() < end:
                yield text[start : match.start()]
                start = match.start()
    yield text[start:]


def _halves(text: str, budget_tokens: int, count: CountTokens) -> list[str]:
    """Halve until every piece fits."""
    if len(text) <= 1 or _fits(text, budget_tokens, count):
        return [text]
    middle = len(text) // 2
    return _halves(text[:middle], budget_tokens, count) + _halves(
        text[middle:], budget_tokens, count
    )
