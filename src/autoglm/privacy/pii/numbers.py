"""Numbers that stand for people: identity, card and telephone numbers, however they are spaced.

Digits may be Chinese. A run of groups is searched for the longest valid number that begins and ends
with a group, so a number is never found inside a longer one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoglm.privacy.pii.checks import is_cn_id, is_luhn, is_old_cn_id
from autoglm.privacy.pii.kinds import Finding, Kind

CHINESE_DIGITS = "零〇○一二三四五六七八九幺两壹贰叁肆伍陆柒捌玖"
_VALUES = "00012345678912123456789"
_TO_ASCII = str.maketrans(CHINESE_DIGITS, _VALUES)
_DIGIT = f"[0-9{CHINESE_DIGITS}]"
_RUN = re.compile(
    rf"\+?\(?{_DIGIT}(?:[ \-.()\t/_·]{{0,2}}{_DIGIT}){{5,}}(?:[ \-]?[xX](?![A-Za-z0-9]))?"
)
# Digits of another script begin another group: in 13800138000三个 the last one counts something.
_GROUP = re.compile(rf"(?:[0-9]+|[{CHINESE_DIGITS}]+)(?:[ \-]?[xX])?")
_MOST_DIGITS = 21
_FEWEST_DIGITS = 7
_WORD_BEFORE = re.compile(
    r"(?:^|[^A-Za-z])(?:tel|phone|telephone|mobile|mob|cell|call|fax|id|no|nr|num|number|card|qq|"
    r"wechat|weixin|ph|wx|sfz|sj)$",
    re.IGNORECASE,
)
_PHONE_BEFORE = re.compile(
    r"(?:tel|phone|mobile|cell|call|dial|fax|contact|reach|ring|text|电话|座机|热线|传真|致电|拨打|手机"
    r"|固话|联系)[^0-9]{0,24}$",
    re.IGNORECASE,
)
_EXTENSION = re.compile(r" ?(?:x|ext\.?) ?\d{1,6}(?!\d)", re.IGNORECASE)
_AREA = re.compile(r"0(?:10|2[0-57-9]|[3-9]\d\d)[2-8]\d{6,7}")
_MAESTRO = ("5018", "5020", "5038", "6304", "6390", "6759", "6761", "6762", "6763")
_SSN_BEFORE = re.compile(r"(?:ssn|social security)[^0-9]{0,16}$", re.IGNORECASE)
_MASTERCARD = re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720")


def find_numbers(text: str) -> Iterator[Finding]:
    """Findings in a folded text, in order and apart from each other."""
    for match in _RUN.finditer(text):
        yield from _find_in_run(text, match.start(), match.group())


def _find_in_run(text: str, offset: int, written: str) -> Iterator[Finding]:
    groups = [match.span() for match in _GROUP.finditer(written)]
    run = written.translate(_TO_ASCII)
    first = 0
    while first < len(groups):
        last = _longest(text, offset, run, groups, first)
        if last is None:
            first += 1
            continue
        end, kind = last
        stop = offset + groups[end][1]
        if kind is Kind.PHONE and (extension := _EXTENSION.match(text, stop)):
            stop = extension.end()
        start = groups[first][0]
        if run[:start].endswith(("+", "(", "+(")) and kind is not Kind.CN_ID:
            start -= 2 if run[:start].endswith("+(") else 1
        yield Finding(offset + start, stop, kind)
        first = end + 1


def _longest(
    text: str, offset: int, run: str, groups: list[tuple[int, int]], first: int
) -> tuple[int, Kind] | None:
    """The last group of the longest number that begins with group `first`, and its kind."""
    start = groups[first][0]
    if not _may_begin(text, offset + start):
        return None
    ends: list[tuple[int, str]] = []
    digits = ""
    for last in range(first, len(groups)):
        digits += run[groups[last][0] : groups[last][1]].replace(" ", "").replace("-", "")
        if len(digits) > _MOST_DIGITS:
            break
        if len(digits) >= _FEWEST_DIGITS:
            ends.append((last, digits))
    is_plus = run[:start].endswith(("+", "+("))
    for last, digits in reversed(ends):
        if _may_end(text, offset + groups[last][1]):
            written = run[start : groups[last][1]]
            kind = _kind(digits, written, is_plus=is_plus)
            if kind is not None:
                return last, kind
    before = text[max(0, offset + start - 40) : offset + start]
    for last, digits in ends if _SSN_BEFORE.search(before) else ():
        if len(digits) == 9:
            return last, Kind.SSN
    if ends and _PHONE_BEFORE.search(before):
        for last, digits in reversed(ends):
            is_number = digits.isdigit() and len(digits) <= 15
            if is_number and _may_end(text, offset + groups[last][1]):
                return last, Kind.PHONE
    return None


def _may_begin(text: str, place: int) -> bool:
    before = text[place - 1 : place]
    if before.isascii() and (before.isalpha() or before == "_"):
        return _WORD_BEFORE.search(text[max(0, place - 12) : place]) is not None
    return not (before == "." and text[max(0, place - 2) : place - 1].isalnum())


def _may_end(text: str, place: int) -> bool:
    after = text[place : place + 1]
    if after in ("x", "X"):
        return text[place + 1 : place + 2].isdigit()
    return not (after.isascii() and (after.isalnum() or after == "_"))


def _kind(digits: str, written: str, *, is_plus: bool) -> Kind | None:
    if digits[-1] in "xX":
        return Kind.CN_ID if len(digits) == 18 and is_cn_id(digits) else None
    has_dots = "." in written
    if not has_dots and "(" not in written:
        if len(digits) == 18 and is_cn_id(digits):
            return Kind.CN_ID
        if _is_card(digits):
            return Kind.BANK_CARD
        if len(digits) == 15 and written.isdigit() and is_old_cn_id(digits):
            return Kind.CN_ID
    return _phone_kind(digits, written, is_plus=is_plus)


def _phone_kind(digits: str, written: str, *, is_plus: bool) -> Kind | None:
    home = digits
    for prefix in ("0086", "86"):
        if digits.startswith(prefix) and len(digits) - len(prefix) in (10, 11, 12):
            home = digits[len(prefix) :]
            break
    is_abroad = is_plus and home == digits
    if not is_abroad and len(home) == 11 and home[0] == "1" and home[1] in "3456789":
        return Kind.MOBILE
    if home != digits and home[0] != "0":
        home = "0" + home
    if home[0] == "0" and _AREA.fullmatch(home):
        return Kind.LANDLINE
    if len(home) == 10 and home[:3] in ("400", "800"):
        return Kind.LANDLINE
    if is_plus and 8 <= len(digits) <= 15:
        return Kind.PHONE
    return _western_kind(digits, written)


def _western_kind(digits: str, written: str) -> Kind | None:
    if len(digits) not in (9, 10, 11, 12):
        return None
    shape = [len(group) for group in re.split(r"[^0-9]+", written.strip("()"))]
    if shape == [3, 2, 4] and written.count("-") == 2 and digits[:3] not in ("000", "666"):
        return Kind.SSN
    if shape in ([3, 3, 4], [1, 3, 3, 4]) and len(set(digits)) > 1:
        return Kind.PHONE
    return None


def _is_card(digits: str) -> bool:
    length = len(digits)
    if not 12 <= length <= 19:
        return False
    match digits[0]:
        case "4":
            is_known = length in (13, 16, 19)
        case "3":
            is_known = (length in (14, 15) and digits[1] in "04678") or (
                length in (14, 16, 19) and digits[1] in "05689"
            )
        case "5" | "2":
            is_maestro = digits[:2] in ("56", "57", "58") or digits.startswith(_MAESTRO)
            is_jcb = length == 15 and digits.startswith("2131")
            is_mastercard = length == 16 and _MASTERCARD.match(digits) is not None
            is_known = is_mastercard or is_maestro or is_jcb
        case "6":
            # Thirteen digits that begin with 69 are on every product of China.
            is_known = length >= 16 or digits.startswith(_MAESTRO)
        case "1":
            is_known = length == 15 and digits.startswith("1800")
        case "9":
            is_known = length in (16, 19)
        case _:
            is_known = False
    return is_known and len(set(digits)) > 1 and is_luhn(digits)
