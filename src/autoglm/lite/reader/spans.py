"""Which spans of English words can answer a question: whole names, of the kind that is asked for.

What the networks learn from made questions, they learn word by word. These rules cost a span points
(in nats) for what a reader sees at once: a name cut in two, a year where a thing is asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from autoglm.lite.reader.clues import MONTHS, tokenize
from autoglm.lite.reader.text import words

if TYPE_CHECKING:
    import numpy.typing as npt

    from autoglm.lite.reader.clues import Tokens
    from autoglm.lite.reader.weights import Floats

_ARTICLES = frozenset(("a", "an", "the"))
_FUNCTION_WORDS = frozenset(
    words(
        "of in on at by for with to from into through about against between among during before"
        " after above below under over and or but nor so yet if because while although though when"
        " where which who whom whose that than as is are was were be been being am has have had"
        " having do does did can could may might must shall should will would it its he she they"
        " him her his their this these those there we you i not no also only often usually then"
        " such very what how why however therefore since without within per via upon toward"
        " towards despite like"
    )
)
_COUNTS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    "|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    "|hundred|thousand|million|billion|dozen|half|thirds?|quarters?|several"
)
_PART = r"(?:[A-Z][\w'’.-]*\w|[A-Z]\.)"
_NAME = re.compile(
    rf"{_PART}(?:(?: | (?:of|the|de|and|van|von|der|al|la|le|du|di|da) |-|–){_PART})*"
)
_DATE = re.compile(
    rf"\b(?:(?:early|mid|late)[- ])?(?:\d{{1,2}}(?:st|nd|rd|th)? (?:{MONTHS})(?:,? \d{{4}})?"
    rf"|(?:{MONTHS})(?: \d{{1,2}}(?:st|nd|rd|th)?)?(?:,? \d{{4}})?|(?:1\d|20)\d\ds?"
    r"|\d{1,2}(?:st|nd|rd|th) century|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
    r"|\d{1,4} (?:BC|AD|BCE|CE))\b"
)
_NUMBER = re.compile(
    r"[$£€]?\b\d[\d,.]*(?:\s?(?:%|percent|per cent|million|billion|trillion|thousand|hundred))*"
    rf"|\b(?:{_COUNTS})\b"
)
_ASKS_DATE = re.compile(
    r"\bwhen\b|\b(?:what|which) (?:\w+ )?(?:year|date|day|month|century|decade)\b|^in what year",
    re.IGNORECASE,
)
_ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|old|far|long|often|tall|large|big|high|wide|deep|fast|heavy)\b"
    r"|\bwhat (?:\w+ )?(?:percent|percentage|number|population|ratio|amount|share|proportion|size"
    r"|height|length|distance|speed|temperature|cost|price|rate|age|score)\b",
    re.IGNORECASE,
)
_CUT, _LOOSE_END, _OTHER_KIND, _ASKED, _CROSSED = 1.5, 2.0, 2.0, 2.0, 2.0
_BOUNDS = frozenset(":;")  # a speaker's name ends at one
_CURRENCY = "$£€"


class SpanRules:
    """The rules over one text and one question."""

    def __init__(self, tokens: Tokens, question: str) -> None:
        texts = [tokens.text[a:b] for a, b in zip(tokens.starts, tokens.ends, strict=True)]
        low = [text.lower() for text in texts]
        is_mark = np.array([not t[0].isalnum() and t[0] not in _CURRENCY for t in texts])
        is_article = np.array([text in _ARTICLES for text in low])
        is_loose = np.array([text in _FUNCTION_WORDS for text in low]) | is_mark
        self.first: Floats = _LOOSE_END * is_loose.astype(np.float32)
        self.last: Floats = _LOOSE_END * (is_loose | is_article).astype(np.float32)
        inside = {}
        for pattern in (_NAME, _DATE, _NUMBER):
            inside[pattern], begins, ends = _found(pattern, tokens)
            self.first += _CUT * (inside[pattern] & ~begins)
            self.last += _CUT * (inside[pattern] & ~ends)
        asked = frozenset(tokenize(question).keys)
        is_asked = np.array([key in asked for key in tokens.keys])
        content = ~is_loose & ~is_article
        is_count = inside[_DATE] | inside[_NUMBER]
        self._content, self._same = _sums(content), _sums(content & is_asked)
        self._counts = _sums(content & is_count)
        self._bounds = _sums(np.array([text in _BOUNDS for text in texts]))
        self._wanted = None
        if _ASKS_DATE.search(question):
            self._wanted = _sums(inside[_DATE])
        elif _ASKS_NUMBER.search(question):
            self._wanted = _sums(inside[_NUMBER])

    def inner(self, extra: int) -> Floats:
        """What each span of `extra` tokens after its first costs for what is in it."""
        content = _within(self._content, extra)
        cost = _ASKED * _within(self._same, extra) / np.maximum(content, 1)
        if self._wanted is None:
            is_other = content == _within(self._counts, extra)
        else:
            is_other = _within(self._wanted, extra) == 0
        cost += _CROSSED * (_within(self._bounds, extra) > 0)
        return np.asarray(cost + _OTHER_KIND * is_other, dtype=np.float32)


def _found(
    pattern: re.Pattern[str], tokens: Tokens
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tokens in matches of a pattern, those that begin one, and those that end one."""
    inside, begins, ends = (np.zeros(len(tokens), dtype=bool) for _ in range(3))
    for match in pattern.finditer(tokens.text):
        first = int(np.searchsorted(tokens.ends, match.start(), side="right"))
        after = int(np.searchsorted(tokens.starts, match.end()))
        if first < after:
            inside[first:after] = True
            begins[first] = ends[after - 1] = True
    return inside, begins, ends


def _sums(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How many are set before each place."""
    return np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])


def _within(sums: npt.NDArray[np.int64], extra: int) -> npt.NDArray[np.int64]:
    """How many are set in each span of `extra` tokens after its first."""
    counts: npt.NDArray[np.int64] = sums[extra + 1 :] - sums[: len(sums) - extra - 1]
    return counts
