"""Chinese organisations, by the word they end in; Western ones are found with the names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.pii.lexicon import any_of, characters

_LONGEST = 16
_ENDS = any_of("zh_organisation_ends")
_BRANCH = r"(?:[^\W_a-z]{2,6}(?:分行|支行|分公司|营业部|分局|分院|分校|校区|办事处))?"
# "Bank" may be followed by "limited company".
_END = re.compile(rf"(?:{_ENDS})(?:{_ENDS}){{0,2}}{_BRANCH}(?![路街里巷门])")
_PART = rf"[^\W_a-z{characters('zh_outside_organisations')}]"
_NAME = re.compile(
    rf"{_PART}{{2,{_LONGEST}}}(?:\({_PART}{{1,8}}\){_PART}{{0,6}})?$|{_PART}{{1,{_LONGEST}}}\({_PART}{{1,8}}\)$"
)
# "A large logistics company" is no name.
_GENERAL = re.compile(rf"(?:{any_of('zh_organisation_kinds')})+")


def find_organisations(text: str) -> Iterator[Finding]:
    """Organisations in a folded text."""
    reached = 0
    for end in _END.finditer(text):
        name = _NAME.search(text[max(reached, end.start() - _LONGEST) : end.start()])
        if name is None or _GENERAL.fullmatch(name.group()):
            continue
        reached = end.end()
        yield Finding(end.start() - len(name.group()), end.end(), Kind.ORGANISATION)
