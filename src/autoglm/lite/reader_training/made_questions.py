"""Makes English questions from sentences, for there is no licensed set that people wrote.

A sentence loses a date, number, name or phrase. Its other words, thinned out and mixed with words
of other sentences, stand behind, around or before the question word that asks for what is missing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoglm.lite.reader.text import STOP_WORDS, terms, words
from autoglm.lite.reader.weights import TermTable
from autoglm.lite.salience import sentences

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_COUNTS = "two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|forty|fifty|hundred"
_BEFORE = (
    r"\b(?:is|are|was|were|be|as|of|in|by|for|with|from|into|on|includes?|including|called|has|had"
    r"|have|became|become|provides?|uses?|used|between|through|about|against|like|[a-z]+ed)"
)
_AFTER = (
    r"(?=[,.;:)]| (?:is|are|was|were|as|in|by|for|with|to|from|that|which|who|on|but|when|if)\b)"
)
_NAME = (
    r"(?:(?:Mr|Mrs|Dr|St)\. |Sir |the )?[A-Z][\w'’-]*[a-z]"
    r"(?:(?: (?:of|the|de|von|and) | [A-Z]\. | )[A-Z][\w'’-]*[a-z]){0,4}"
)
# An answer with one of these is a clause; those are asked for by why and how alone.
_VERBAL = frozenset(
    words(
        "is are was were be been am has have had will would can could may might should must do does"
        " did which who that it they he she you i we not to"
    )
)
_AUXILIARIES = ("did", "does", "do", "is", "was", "are", "were", "can", "has", "")
_WHAT = ("What", "What", "What", "What", "Which", "What kind of", "What type of")


@dataclass(frozen=True, slots=True)
class _Gap:
    """What may be missing (the first group, if there is one), how it is asked for, how often."""

    pattern: re.Pattern[str]
    asks: tuple[str, ...]
    weight: float


_GAPS = (
    _Gap(
        re.compile(
            rf"\b(?:(?:{_MONTHS}) \d{{1,2}}(?:, \d{{4}})?|(?:\d{{1,2}} )?(?:{_MONTHS})(?: \d{{4}})?"
            rf"|(?:1[5-9]|20)\d\ds?|(?:early|late) (?:1[5-9]|20)\d\ds?"
            rf"|(?:\d{{1,2}}th|\w+teenth|twentieth) century)\b"
        ),
        ("When did", "When was", "When", "In what year", "What year did", "When were"),
        1.5,
    ),
    _Gap(
        re.compile(
            r"(?:\b(?:about|over|up to|more than) )?[$£€]?\b(?:\d[\d,.]*\d|\d)"
            r"(?:%| percent| million| billion)?(?= [a-z])"
            rf"|\b(?:{_COUNTS})(?:[ -](?:{_COUNTS}|thousand|million))?\b(?= [a-z])"
        ),
        ("How many",),
        1.5,
    ),
    _Gap(
        re.compile(
            rf"\b(?:\d[\d,.]*|{_COUNTS}|several)(?: (?:million|billion|thousand|hundred))?"
            r" (?:years|days|hours|months|minutes|weeks|miles|feet|met(?:er|re)s|kilomet(?:er|re)s)"
            r"(?: old)?\b"
        ),
        ("How long did", "How long is", "How long", "How old", "How far", "How much"),
        0.7,
    ),
    _Gap(re.compile(rf"(?<=[a-z,] ){_NAME}(?=[ ,.;:)])"), ("Who", "What", "Which"), 3.5),
    _Gap(re.compile(rf"^{_NAME}(?= [a-z]+(?:ed|s)\b| (?:was|had|is)\b)"), ("Who", "What"), 1.0),
    _Gap(
        re.compile(rf"{_BEFORE} (?:the |an? )?(\w[\w'-]*(?: [\w'-]+){{0,6}}?){_AFTER}"), _WHAT, 4.0
    ),
    _Gap(
        re.compile(rf"{_BEFORE} (?:the |an? )?(\w[\w'-]*(?: [\w'-]+){{1,7}})(?=[,.;:])"), _WHAT, 2.0
    ),
    _Gap(
        re.compile(
            r"^(?:The |An? )?([\w'-]+(?: [\w'-]+){0,4}?)(?= (?:is|are|was|were|has|had|can|will"
            r"|may)\b)"
        ),
        (*_WHAT, "Who"),
        2.0,
    ),
    _Gap(
        re.compile(r"\bbecause (?:of )?([^,.;]{10,70})(?=[,.;])"),
        ("Why did", "Why is", "Why was", "Why do"),
        0.7,
    ),
    _Gap(re.compile(r" by ([a-z]+ing [^,.;]{5,50})(?=[,.;])"), ("How does", "How did"), 0.7),
)
_KEPT_CONTENT, _KEPT_STOP, _STRANGE, _OF_TEXT = 0.6, 0.35, 0.08, 0.08
_IN_PLACE, _FRONTED, _HEADED = 0.08, 0.2, 0.35
_PLAIN_RARITY, _RARE = 2.6, 5.5  # of an answer's rarest term: never asked for, always
_MIN_TERMS = 2


@dataclass(frozen=True, slots=True)
class Made:
    """A question, and the answer's place in the text."""

    question: str
    answer: str
    start: int


class QuestionMaker:
    """Makes questions about texts; remembers words of the texts before as strange ones."""

    def __init__(self, rarity: TermTable, rng: random.Random) -> None:
        self._rarity, self._rng = rarity, rng
        self._strange: list[str] = ["thing"]

    def make(self, text: str) -> Made | None:
        """A question about a sentence of the text; None if nothing was found to ask for."""
        rng = self._rng
        gap = rng.choices(_GAPS, [gap.weight for gap in _GAPS])[0]
        inner = sentences(text, "en")[1:-1]
        candidates = [
            (sentence, match)
            for sentence in inner
            if 50 < len(sentence) < 320
            for match in gap.pattern.finditer(sentence)
            if self._may_be_asked(match[match.re.groups], gap)
        ]
        if not candidates:
            return None
        sentence, match = rng.choice(candidates)
        begin, end = match.span(match.re.groups)
        left, right = _sides(sentence, begin, end, rng)
        other = re.findall(r"[\w'-]+", " ".join(each for each in inner if each != sentence))
        said = [self._thinned(found, other) for found in (left, right)]
        self._strange += (left + right)[:3]
        del self._strange[:-5000]
        if sum(word.lower() not in STOP_WORDS for side in said for word in side) < _MIN_TERMS:
            return None
        answer = sentence[begin:end]
        asked = self._asked(gap, sentence[:begin], answer, right)
        if asked[0] in _WHAT and " " in answer and answer.islower() and rng.random() < _HEADED:
            # "What kind of farmers": the last word of the answer is asked with, and may stay in it.
            whole, _, head = answer.rpartition(" ")
            asked = (asked[0], head)
            answer = whole if rng.random() < 0.5 else answer
        question = self._order(" ".join(filter(None, asked)), *said, is_first=begin < 6)
        return Made(question, answer, text.find(sentence) + begin)

    def _may_be_asked(self, answer: str, gap: _Gap) -> bool:
        """Whether it says something: no pronoun, no verb or adverb alone, rather rare words."""
        said = answer.lower().split()
        if STOP_WORDS.issuperset(said):
            return False
        if any(word[0].isdigit() for word in said) or gap.asks[0].startswith("How"):
            return True
        if not gap.asks[0].startswith("Why") and not _VERBAL.isdisjoint(said):
            return False
        if len(said) == 1 and said[0].endswith(("ed", "ly", "ing")):
            return False
        rarest = float(self._rarity.values(terms(answer)).max(initial=0.0))
        return self._rng.random() < (rarest - _PLAIN_RARITY) / (_RARE - _PLAIN_RARITY)

    def _thinned(self, found: Sequence[str], other: Sequence[str]) -> list[str]:
        """Some of the words; some of them exchanged, as people ask with words of their own."""
        rng = self._rng
        kept: list[str] = []
        for word in found:
            if rng.random() >= (_KEPT_STOP if word.lower() in STOP_WORDS else _KEPT_CONTENT):
                continue
            chance = rng.random()
            if chance < _STRANGE:
                word = rng.choice(self._strange)
            elif chance < _STRANGE + _OF_TEXT and other:
                word = rng.choice(other)
            kept.append(word)
        return kept

    def _asked(self, gap: _Gap, before: str, answer: str, right: Sequence[str]) -> tuple[str, str]:
        """The question word, and what stands behind it."""
        rng = self._rng
        asks: tuple[str, ...] = gap.asks
        if asks == ("How many",):
            if "%" in answer or "percent" in answer:
                return "What percentage of", ""
            if answer[0] in "$£€":
                return "How much", ""
            return "How many", right[0] if right else ""
        if "Who" in asks and answer[0].isupper():
            asks = _name_asks(before, answer)
        asked = rng.choice(asks)
        is_bare = asked in ("What", "Who", "Which", "Where")
        return asked, rng.choice(_AUXILIARIES) if is_bare and before.strip() else ""

    def _order(
        self, asked: str, left: Sequence[str], right: Sequence[str], *, is_first: bool
    ) -> str:
        """The words in one of the orders of English questions."""
        rng = self._rng
        chance = rng.random()
        if chance < _IN_PLACE and left:
            said = [*left, asked.lower(), *right]
        elif chance < _IN_PLACE + _FRONTED and right:
            said = [*right, asked.lower(), *left]
        elif is_first:
            said = [asked, *right]
        else:
            said = [asked, *left, *right]
        text = " ".join(said)
        return f"{text[0].upper()}{text[1:]}?"


def _sides(sentence: str, begin: int, end: int, rng: random.Random) -> tuple[list[str], list[str]]:
    """Words before and after the gap; far words are asked less often than near ones."""
    cut = rng.randrange(40, 200)
    left = sentence[max(0, begin - cut) : begin]
    left = left if begin <= cut else left.partition(" ")[2]
    right = sentence[end : end + cut]
    right = right if end + cut >= len(sentence) else right.rpartition(" ")[0]
    if rng.random() < 0.5:
        right = re.split(r"[,;:(]", right)[0]
    return re.findall(r"[\w'-]+", left), re.findall(r"[\w'-]+", right)


def _name_asks(before: str, answer: str) -> tuple[str, ...]:
    """How a name is asked for, by what stands before it."""
    if re.search(r"\b(?:in|at|from|near|to|into|across) (?:the )?$", before):
        return ("Where", "Where", "What", "Which city", "What country", "Which")
    if re.match(r"(?:Mr|Mrs|Dr|Sir)\b", answer) or re.search(
        r"\b(?:by|[a-z]+er|[a-z]+or) $", before
    ):
        return ("Who", "Who", "Who", "What is the name of")
    return ("Who", "Who", "What", "What", "Which", "What is the name of")
