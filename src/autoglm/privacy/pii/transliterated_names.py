"""Names of other peoples in Chinese characters: with a dot between their parts, or of known parts.

A part beside a dot reaches as far as characters that are used to write foreign sounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.pii.lexicon import any_of, characters

_SOUND = f"[{characters('zh_transliteration')}]"
_LEFT = re.compile(rf"{_SOUND}{{1,6}}$")
_RIGHT = re.compile(rf"(?: ?· ?{_SOUND}{{1,8}}){{1,4}}")
# Tibetan, Mongolian and Uyghur names: one part alone may be a word.
_PART = any_of("zh_minority_names")
_PARTS = re.compile(rf"(?:{_PART})(?:{_PART}){{1,3}}")
_LONGEST = 6


def find_transliterated_names(text: str) -> Iterator[Finding]:
    """Names in a folded text."""
    reached = 0
    dot = text.find("·")
    while dot >= 0:
        before = max(reached, dot - _LONGEST)
        left = _LEFT.search(text[before:dot].rstrip(" "))
        right = _RIGHT.match(text, len(text[:dot].rstrip(" ")) if left else dot)
        if left is not None and right is not None:
            start = before + left.start()
            if right.end() - start > 3:
                yield Finding(start, right.end(), Kind.PERSON)
            reached = right.end()
        dot = text.find("·", max(dot + 1, reached))
    for match in _PARTS.finditer(text):
        yield Finding(match.start(), match.end(), Kind.PERSON)
