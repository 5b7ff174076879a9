"""All detectors on one text: findings in order, apart from each other, in the original's places."""

from __future__ import annotations

import re
from collections.abc import Iterable

from autoglm.privacy.pii.chinese_addresses import find_chinese_addresses
from autoglm.privacy.pii.chinese_names import ChineseNames
from autoglm.privacy.pii.codes import find_codes
from autoglm.privacy.pii.fold import fold
from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.pii.numbers import find_numbers
from autoglm.privacy.pii.organisations import find_organisations
from autoglm.privacy.pii.transliterated_names import find_transliterated_names
from autoglm.privacy.pii.western_addresses import find_western_addresses
from autoglm.privacy.pii.western_names import WesternNames

# Where findings overlap the kind that is surer of itself gives its name to the whole.
_PRECEDENCE = {kind: place for place, kind in enumerate(Kind)}
_HAN = re.compile(r"[\u4e00-\u9fff]")
_LETTERS = re.compile(r"[A-Za-zÀ-ӿ]")


class Detector:
    """Finds personal data; making one reads the lists, which takes some milliseconds."""

    def __init__(self) -> None:
        self._chinese = ChineseNames()
        self._western = WesternNames()

    def find(self, text: str) -> list[Finding]:
        """Every finding in `text`."""
        folded = fold(text)
        plain = folded.text
        found = [*find_numbers(plain), *find_codes(plain)]
        if _HAN.search(plain):
            found += find_chinese_addresses(plain)
            found += self._chinese.find(plain)
            found += find_organisations(plain)
            found += find_transliterated_names(plain)
        if _LETTERS.search(plain):
            found += find_western_addresses(plain, self._western.is_word)
            found += self._western.find(plain)
        return [
            Finding(*folded.original(finding.start, finding.end), finding.kind)
            for finding in merge(found)
        ]


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in order; those that overlap become one, of the first kind in `Kind`'s order."""
    merged: list[Finding] = []
    for finding in sorted(findings, key=lambda each: (each.start, -each.end)):
        if not merged or finding.start >= merged[-1].end:
            merged.append(finding)
            continue
        last = merged[-1]
        end = max(last.end, finding.end)
        # The surer finding gives its name to the whole unless it is a small part of it.
        large = [
            each for each in (last, finding) if 2 * (each.end - each.start) >= end - last.start
        ]
        kind = min((each.kind for each in large), key=_PRECEDENCE.__getitem__)
        merged[-1] = Finding(last.start, end, kind)
    return merged
