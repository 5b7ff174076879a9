"""The detectors behind a watch: every use proves that they still see, or nothing passes.

A known text with personal data is appended to what is searched; if it is not found in full, or the
findings make no sense, or the search took too long, the screen refuses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from autoglm.errors import AutoGLMError, PrivacyError
from autoglm.privacy.pii.kinds import Finding, Kind

MAX_CHARACTERS = 2**24
SECONDS_PER_CHARACTER = 1e-4
# A machine that swaps or does other work may stop for seconds.
LEAST_SECONDS = 20.0

# Made up; the digits only satisfy their check digits.
_FULL_WIDTH = "".join(chr(ord(digit) + 0xFEE0) for digit in "13900138888")
_WITNESS = (
    f"\n\n姓名:李建国,身份证11010119900307109X,手机{_FULL_WIDTH},卡号6222 0212 3456 7890 128,"
    "邮箱li@example.com,车牌京A12345\n"
)
_WITNESSED = (Kind.PERSON, Kind.CN_ID, Kind.MOBILE, Kind.BANK_CARD, Kind.EMAIL, Kind.PLATE)


class Finder(Protocol):
    """What finds personal data; `pii.detect.Detector` is one."""

    def find(self, text: str) -> Sequence[Finding]:
        """Findings in order and apart from each other."""


class Screen:
    """Finds personal data or raises PrivacyError; there is no third outcome."""

    def __init__(self, finder: Finder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._finder = finder
        self._clock = clock

    def find(self, text: str) -> list[Finding]:
        """The findings in `text`."""
        if len(text) > MAX_CHARACTERS:
            message = f"a text of {len(text)} characters is too long to be screened"
            raise PrivacyError(message)
        start = self._clock()
        try:
            found = [Finding(*each) for each in self._finder.find(text + _WITNESS)]
        except AutoGLMError:
            raise
        except Exception as err:
            # Its message may hold a part of the text.
            message = f"the privacy filter failed ({type(err).__name__}); nothing was sent"
            raise PrivacyError(message) from None
        limit_s = LEAST_SECONDS + len(text) * SECONDS_PER_CHARACTER
        if self._clock() - start > limit_s:
            message = f"the privacy filter took more than {limit_s:.0f} s; nothing was sent"
            raise PrivacyError(message)
        _check(found, len(text) + len(_WITNESS))
        witnessed = tuple(each.kind for each in found if each.start >= len(text))
        if witnessed != _WITNESSED:
            message = "the privacy filter missed what it must find; nothing was sent"
            raise PrivacyError(message)
        return [each for each in found if each.start < len(text)]


def _check(found: Sequence[Finding], length: int) -> None:
    last = 0
    for each in found:
        is_sound = (
            type(each.start) is int
            and type(each.end) is int
            and last <= each.start < each.end <= length
            and isinstance(each.kind, Kind)
        )
        if not is_sound:
            message = "the privacy filter gave findings that make no sense; nothing was sent"
            raise PrivacyError(message)
        last = each.end
