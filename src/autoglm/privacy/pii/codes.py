"""Codes with letters: e-mail addresses, plates, passports, IP addresses, account numbers.

Nothing here backtracks over long input: an address is built outwards from its @, within bounds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from autoglm.privacy.pii.checks import is_iban
from autoglm.privacy.pii.fold import near_digits, places
from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.pii.lexicon import characters
from autoglm.privacy.pii.numbers import CHINESE_DIGITS

_MOST_LOCAL = 64
_AT = re.compile(r"@|\[at\]|\(at\)|\{at\}", re.IGNORECASE)
_LOCAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+'&~\-]{0,63})( ?)$")
_SPACED_LOCAL = re.compile(r"(?<![A-Za-z0-9])(?:[A-Za-z0-9._\-] ){2,64}$")
_DOT = r"(?:\.| \. | ?\[dot\] ?| ?\(dot\) ?)"
_DOMAIN = re.compile(
    rf" ?[A-Za-z0-9](?:[A-Za-z0-9\-]{{0,62}})(?:{_DOT}[A-Za-z0-9\-]{{1,63}}){{0,4}}?"
    rf"{_DOT}[A-Za-z]{{2,18}}(?![A-Za-z0-9\-]|\.[A-Za-z0-9])",
    re.IGNORECASE,
)
_SPACED_DOMAIN = re.compile(
    r"(?: [A-Za-z0-9\-]){1,63}(?: \.(?: [A-Za-z0-9]){2,18}){1,3}(?![A-Za-z0-9])"
)
# Names in Chinese characters, in both halves: 李明@例子.公司
_HAN_LOCAL = re.compile(r"[\u4e00-\u9fffA-Za-z0-9._%+\-]{1,64}$")
_HAN_DOMAIN = re.compile(
    r"[\u4e00-\u9fffA-Za-z0-9\-]{1,63}(?:\.[\u4e00-\u9fffA-Za-z0-9\-]{1,63}){0,3}"
    r"\.(?:公司|中国|网络|网址|在线|中文网|集团|商城|政务|com|cn|net|org)(?![A-Za-z0-9])"
)
# "mary dot jones at example dot org"
_SPOKEN_DOMAIN = re.compile(
    r" at [A-Za-z0-9\-]{1,63}(?:(?: dot | ?\. ?)[A-Za-z0-9\-]{1,63}){0,3} dot [A-Za-z]{2,18}\b"
)
_SPOKEN_LOCAL = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z0-9](?:[A-Za-z0-9._%+\-]| dot | underscore | dash ){0,63}$"
)
_PLATE_LETTER = "[A-HJ-NP-Za-hj-np-z]"
_PLATE = re.compile(
    rf"[{characters('zh_plates')}][ ·.\-]{{0,3}}{_PLATE_LETTER}"
    rf"(?:[ ·.\-]{{0,3}}(?:{_PLATE_LETTER}|[0-9{CHINESE_DIGITS}])){{4,6}}(?:[ ]?[学警港澳挂])?"
    r"(?![A-Za-z0-9])"
)
_EMBASSY = re.compile("[使领]")
_EMBASSY_RIGHT = re.compile(r"[ ]?\d{6}(?!\d)")
_EMBASSY_LEFT = re.compile(r"(?<!\d)\d{6}[使领](?![馆事])")
_PASSPORT = re.compile(
    r"(?<![A-Za-z0-9])(?:[DEGPS] ?\d{4} ?\d{4}|[DEGPS](?: \d){8}|[DEPS][A-HJ-NP-Z] ?\d{7}"
    r"|[HM]\d{8}(?:\d\d)?)(?![A-Za-z0-9])"
)
# The numbers of other countries and of travel permits say nothing without such a word.
_PASSPORT_WORDS = ("护照", "通行证", "台胞证", "回乡证", "旅行证", "海员证", "居留证")
_PASSPORT_ENGLISH = ("passport", "travel document", "travel permit")
_PASSPORT_FILL = re.compile(
    r"[^A-Za-z0-9。；\n]{0,8}(?:(?:number|num|no|is|nr)\b[^A-Za-z0-9。；\n]{0,4}){0,3}",
    re.IGNORECASE,
)
_PASSPORT_CODE = re.compile(
    rf"[A-Za-z]{{0,3}}(?:[ \-]?[0-9{CHINESE_DIGITS}]){{6,10}}(?: ?[A-Za-z])?(?![A-Za-z0-9])"
)
_SHORTEST_IPV6 = 6
_IN_NUMBER = frozenset("0123456789.")
_DOTTED = re.compile(r"[0-9] ?\. ?[0-9]")
_IPV4 = re.compile(r"[0-9]{1,3}(?: ?\. ?[0-9]{1,3}){3}(?!\.?[0-9])")
_VERSION_BEFORE = re.compile(
    r"(?:\bv|version|ver|版本号?|版|release|build|section|chapter|§|[第章节表图])[ :.]{0,2}$",
    re.IGNORECASE,
)
# Anchored at two colons, which are rare, and built to both sides.
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6_LEFT = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f:]{0,39}$")
_IPV6_RIGHT = re.compile(r"[0-9A-Fa-f:]{2,39}(?![0-9A-Za-z:])")
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?"
    r"(?![A-Za-z0-9])"
)


def find_codes(text: str) -> Iterator[Finding]:
    """Findings in a folded text, kind by kind."""
    yield from _emails(text)
    yield from _plates(text)
    for part in near_digits(text, 8):
        for match in _PASSPORT.finditer(text, *part):
            yield Finding(match.start(), match.end(), Kind.PASSPORT)
        for match in _IBAN.finditer(text, *part):
            if is_iban(match.group().replace(" ", "")):
                yield Finding(match.start(), match.end(), Kind.IBAN)
    yield from _announced_passports(text)
    yield from _ip_addresses(text)


def _announced_passports(text: str) -> Iterator[Finding]:
    lowered = text.lower()
    # A few capitals become two small letters; places in such a text would not agree.
    if len(lowered) != len(text):
        lowered = text
    ends = [
        place + len(word)
        for word in (*_PASSPORT_WORDS, *_PASSPORT_ENGLISH)
        for place in places(lowered, word)
    ]
    for end in ends:
        fill = _PASSPORT_FILL.match(text, end)
        # The words between may end in a Chinese digit of the number.
        place = fill.end() if fill else end
        while place > end and text[place - 1] in CHINESE_DIGITS:
            place -= 1
        if code := _PASSPORT_CODE.match(text, place):
            yield Finding(code.start(), code.end(), Kind.PASSPORT)


def _emails(text: str) -> Iterator[Finding]:
    for at in _AT.finditer(text):
        before = text[max(0, at.start() - 2 * _MOST_LOCAL) : at.start()]
        local, domain = _SPACED_LOCAL.search(before), _SPACED_DOMAIN.match(text, at.end())
        if local is None or domain is None:
            domain = _DOMAIN.match(text, at.end())
            local = _LOCAL.search(before[-_MOST_LOCAL - 1 :]) if domain else None
        if local is None or domain is None:
            domain = _HAN_DOMAIN.match(text, at.end())
            local = _HAN_LOCAL.search(before[-_MOST_LOCAL:]) if domain else None
        if local is not None and domain is not None:
            start = at.start() - (len(local.group()))
            yield Finding(start, domain.end(), Kind.EMAIL)
    for match in _SPOKEN_DOMAIN.finditer(text) if " dot " in text else ():
        before = text[max(0, match.start() - 2 * _MOST_LOCAL) : match.start()]
        if local := _SPOKEN_LOCAL.search(before):
            yield Finding(match.start() - len(local.group()), match.end(), Kind.EMAIL)


def _plates(text: str) -> Iterator[Finding]:
    for match in _PLATE.finditer(text):
        if sum(char.isdigit() or char in CHINESE_DIGITS for char in match.group()) >= 3:
            yield Finding(match.start(), match.end(), Kind.PLATE)
    for mark in _EMBASSY.finditer(text):
        if right := _EMBASSY_RIGHT.match(text, mark.end()):
            yield Finding(mark.start(), right.end(), Kind.PLATE)
        if left := _EMBASSY_LEFT.match(text, max(0, mark.start() - 6)):
            yield Finding(left.start(), left.end(), Kind.PLATE)


def _ip_addresses(text: str) -> Iterator[Finding]:
    for match in _IPV4.finditer(text) if _DOTTED.search(text) else ():
        is_whole = text[match.start() - 1 : match.start()] not in _IN_NUMBER
        is_address = is_whole and all(int(part) <= 255 for part in match.group().split("."))
        before = text[max(0, match.start() - 10) : match.start()]
        if is_address and _VERSION_BEFORE.search(before) is None:
            yield Finding(match.start(), match.end(), Kind.IP)
    reached = 0
    for colons in _COLONS.finditer(text):
        if colons.start() < reached:
            continue
        left = _IPV6_LEFT.search(text[max(0, colons.start() - 39) : colons.start()])
        right = _IPV6_RIGHT.match(text, colons.start())
        if left is None or right is None:
            continue
        reached = right.end()
        start = colons.start() - len(left.group())
        if _is_ipv6(text[start:reached]):
            yield Finding(start, reached, Kind.IP)


def _is_ipv6(address: str) -> bool:
    if len(address) < _SHORTEST_IPV6 or not any(char.isdigit() for char in address):
        return False
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True
