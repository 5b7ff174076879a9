"""Chinese names: a surname and one or two characters of given names that texts rarely put together.

How rarely is a ratio of pair frequencies, texts against names, from data/zh_pairs.txt; what stands
left and right moves the threshold. tools/privacy_lists.py makes that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.pii.lexicon import any_of, characters, words

_HAN = "\u4e00-\u9fff"
_RUN = re.compile(rf"[{_HAN}]{{2,}}")
_TITLE = re.compile(rf"(?:{any_of('zh_titles')})(?![{_HAN}]?[们厂])")
_WEAK_TITLES = frozenset("总工某")
_AFTER = re.compile(rf"$|[^{_HAN}]|的(?:{any_of('zh_possessions')})|{any_of('zh_after')}")
_BEFORE = re.compile(
    rf"(?:^|[^{_HAN}]|{any_of('zh_before')}|{any_of('zh_introductions')}|{any_of('zh_roles')})$"
)
_STRONG_BEFORE = re.compile(rf"(?:{any_of('zh_introductions')})[:为是 ]{{0,2}}$")
# A space between surname and given name is written to fill a line.
_GAP = re.compile(rf"[{_HAN}] (?=[{_HAN}])")
_GIVEN = re.compile(rf"[{_HAN}]{{1,2}}")
_RUN_AFTER = re.compile(f"[{_HAN}]")
_EDGE = re.compile(rf"$|[^{_HAN}]|[收的说是和与在住]")
_CONTEXT = 8
# Nats by which a name must be likelier than text, and what the context adds to it.
_LONG_LIMIT = 0.0
_SHORT_LIMIT = -1.0
_LITTLE_BONUS = 2.0
_LARGE_BONUS = 6.0
_UNSEEN = -5
_DOUBLE_SURNAME = -4
_OFFSET = 4
# So many of the given-name characters make a name of a surname and a word: 高大伟.
_MOST_USUAL = 250


class ChineseNames:
    """Finds names; the tables are read once, when it is made."""

    def __init__(self) -> None:
        self._ratios: dict[str, int] = {}
        table = iter(words("zh_pairs"))
        for first, followers, digits in zip(table, table, table, strict=True):
            for second, digit in zip(followers, digits, strict=True):
                self._ratios[first + second] = int(digit) - _OFFSET
        self._given = frozenset(characters("zh_given"))
        self._never_given = frozenset(characters("zh_never_given"))
        self._not_surnames = frozenset(words("zh_not_surnames"))
        self._not_names = frozenset(words("zh_not_names"))
        self._usual = frozenset(characters("zh_given")[:_MOST_USUAL])
        surnames = characters("zh_surnames")
        self._surname = re.compile(f"{any_of('zh_double_surnames')}|[{surnames}]")

    def find(self, text: str) -> Iterator[Finding]:
        """Names in a folded text."""
        for gap in _GAP.finditer(text):
            if end := self._spaced_end(text, gap.start(), gap.end()):
                yield Finding(gap.start(), end, Kind.PERSON)
        for run in _RUN.finditer(text):
            place = run.start()
            while (match := self._surname.search(text, place, run.end())) is not None:
                start = match.start()
                is_word = text[start - 1 : start + 1] in self._not_surnames
                end = None if is_word else self._name_end(text, start, match.end())
                if end and self._is_other_word(text, start, end):
                    end = None
                place = end or start + 1
                if end:
                    yield Finding(start, end, Kind.PERSON)

    def _spaced_end(self, text: str, start: int, given: int) -> int | None:
        """Where a name with a space ends that is introduced or has a title."""
        if self._surname.fullmatch(text, start, start + 1) is None:
            return None
        before = text[max(0, start - _CONTEXT) : start]
        for end in (given + 2, given + 1):
            if _GIVEN.fullmatch(text, given, end) is None:
                continue
            is_whole = _RUN_AFTER.match(text, end) is None
            if (is_whole and _STRONG_BEFORE.search(before)) or _TITLE.match(text, end):
                return end
        return None

    def _is_other_word(self, text: str, start: int, end: int) -> bool:
        """Whether the name that was found is a word of everyday texts, or begins with one."""
        if text[start : start + 2] not in self._not_names:
            return False
        is_usual = end - start > 2 and text[end - 1] in self._usual and _AFTER.match(text, end)
        title = _TITLE.match(text, end)
        is_titled = title is not None and title.group() not in _WEAK_TITLES
        before = text[max(0, start - _CONTEXT) : start]
        return not (is_usual or is_titled or _STRONG_BEFORE.search(before))

    def _name_end(self, text: str, start: int, given: int) -> int | None:
        """Where the name ends whose surname is `text[start:given]`; None when it is no name."""
        before = text[max(0, start - _CONTEXT) : start]
        bonus = 0.0
        if _STRONG_BEFORE.search(before):
            bonus = _LARGE_BONUS
        elif _BEFORE.search(before):
            bonus = _LITTLE_BONUS
        title = _TITLE.match(text, given)
        if title and (bonus or title.group() not in _WEAK_TITLES):
            return given
        first, second = text[given : given + 1], text[given + 1 : given + 2]
        if not self._may_begin(first, text, given, bonus):
            return None
        is_double = given - start == 2
        ratio = self._ratios.get(text[given - 1] + first, _UNSEEN)
        ratio = _DOUBLE_SURNAME if is_double else ratio
        # At an edge or before a title even a rare character belongs to the name.
        is_closed = any(
            pattern.match(text, given + 2)
            for pattern in (_EDGE, _TITLE, *([_AFTER] if bonus else []))
        )
        if second in self._given or (is_closed and self._may_be_given(second)):
            is_counted = first in self._given and second in self._given
            score = ratio + self._ratios.get(first + second, _UNSEEN if is_counted else 0)
            if score <= _LONG_LIMIT + bonus + self._after(text, given + 2):
                return given + 2
        limit = _SHORT_LIMIT + bonus + 2 * self._after(text, given + 1)
        return given + 1 if ratio <= limit else None

    def _may_begin(self, first: str, text: str, given: int, bonus: float) -> bool:
        """Whether a given name may begin with `first`; rare characters need more of a reason."""
        if first in self._given:
            return True
        is_between = bonus > 0 and (_AFTER.match(text, given + 1) or _AFTER.match(text, given + 2))
        is_titled = _TITLE.match(text, given + 1)
        is_expected = bonus > _LITTLE_BONUS or is_between or is_titled
        return bool(is_expected) and self._may_be_given(first)

    def _may_be_given(self, char: str) -> bool:
        return "\u4e00" <= char <= "\u9fff" and char not in self._never_given

    def _after(self, text: str, end: int) -> float:
        if _TITLE.match(text, end):
            return 3.0
        return 1.0 if _AFTER.match(text, end) else -2.0
