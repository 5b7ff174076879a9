"""Western addresses: a number and a street, a street and a number, or what a word announces.

What follows a street, from the flat to the country, is taken along. Numbers and the words that
streets end in are the anchors, so text without them costs next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from autoglm.privacy.pii.fold import near_digits, places
from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.pii.lexicon import any_of, words

IsWord = Callable[[str], bool]

_REACH = 40
_WORD = r"(?![\u4e00-\u9fff])[^\W\d_][\w'’.\-]*"
_NUMBER = r"\d{1,6}[A-Za-z]?"
_SECOND_NUMBER = r"(?:\d{1,5} )?"
# Words between two numbers that are no street: 2 of 3, 5 and 7.
_FUNCTION = r"(?:and|or|for|in|is|was|are|were|to|with|at|on|has|have|had|that|this|by|from|as)\b"
_MEASURE = r"(?:[kKMGT]i?[bB]|[kMG]?Hz|[kmcn]?m|[mnu]?s|px|[kKMG]bps|[kKMG]?W|rpm|fps|CV[CV])\b"
_ORDINAL = r"\d{1,3}(?:st|nd|rd|th)"
_UNIT_WORD = r"(?:apt|apartment|suite|ste|unit|flat|room|floor|block|tower|box|p\.?o\.? ?box|#)"
_LINE = r"(?:(?:,? ?\n[>?* \t]{0,6}){1,2},? ?|, ?)"
# Unit, town, state, country and postcode, each on its own line or after a comma.
# Great Britain and Canada: letters and digits.
_MIXED_POSTCODE = r"(?:[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d)\b"
_REST_OF = (
    rf"(?:(?:{_LINE}| ){_UNIT_WORD}\.? ?#?\w{{1,6}}\b){{0,2}}"
    rf"(?:{_LINE}{_WORD}(?: {_WORD}){{0,5}}(?!\w)(?! ?[:@])){{0,3}}"
    rf"(?: [A-Z]{{2}}\b)?"
    rf"(?:(?:{_LINE}| )(?:(?!{_FUNCTION}){_WORD} ){{0,3}}"
    rf"(?:{_MIXED_POSTCODE}|(?:[A-Z]{{1,2}}-)?\d{{4,6}}(?:-\d{{3,4}})?(?![\d-])))?"
    # The second half of a postcode whose first half was taken for a word.
    r"(?: \d[A-Z][A-Z\d]\b)?"
)
_BEGIN = r"(?<![\w.$€£%#-])"
_NUMBER_FIRST = re.compile(
    rf"{_BEGIN}{_NUMBER},? {_SECOND_NUMBER}(?:(?:{_WORD}|{_ORDINAL}),? ){{1,5}}?"
    rf"(?:{any_of('en_streets')})\b\.?{_REST_OF}",
    re.IGNORECASE,
)
_NUMBER_LAST = re.compile(
    rf"{_BEGIN}{_NUMBER} (?!{_MEASURE})(?:(?!{_FUNCTION}){_WORD},? ){{1,6}}?"
    rf"\d{{1,5}}[A-Za-z]?(?![\w:%]|[.,]\d){_REST_OF}"
)
_NUMBER_UNIT = re.compile(
    rf"{_BEGIN}{_NUMBER} {_SECOND_NUMBER}{_WORD}(?: {_WORD}){{0,5}}?(?:{_LINE}| )"
    rf"{_UNIT_WORD}\.? ?#?\d{{1,5}}\b{_REST_OF}",
    re.IGNORECASE,
)
_LOOSE = re.compile(
    rf"{_BEGIN}{_NUMBER} {_SECOND_NUMBER}(?!{_MEASURE}){_WORD}(?: (?!{_FUNCTION}){_WORD}){{0,4}}"
    rf"(?: \d{{1,5}}\.?)?{_REST_OF}"
)
# A street is anchored at the part of it that says so, and built to both sides from there.
_STREET = re.compile(
    rf"(?:{any_of('western_endings')})(?!\w)|(?<!\w)(?:{any_of('western_beginnings')})(?= )"
)
_LEFT = re.compile(
    rf"(?:(?<![\w.])\d{{1,6}} )?(?:(?:{_WORD} ){{0,2}}[^\W\d_][\w'’\-]*|(?:{_WORD} )?)$"
)
_RIGHT = re.compile(
    rf"(?: {_WORD}(?: {_WORD}){{0,4}}?)?(?: ?,? ?\d{{1,5}}[A-Za-z]?\b\.?|(?!\w)){_REST_OF}"
)
_BOX = re.compile(
    r"(?<!\w)(?:(?:psc|unit|apt\.?|suite|p\.?o\.? ?box|box|cmr) \d{1,6}"
    r"|flat \d{1,5}[A-Za-z]?(?=, )"
    rf"|us(?:s|ns|nv|cgc) {_WORD}(?= ?\n))(?:,? box \d{{1,6}})?{_REST_OF}",
    re.IGNORECASE,
)
# How a box may begin, in small letters; literal words are found much faster than alternatives.
_BOX_WORDS = (
    "psc ",
    "unit ",
    "flat ",
    "apt ",
    "apt. ",
    "suite ",
    "box ",
    "cmr ",
    "uss ",
    "usns ",
    "usnv ",
    "uscgc ",
)
_POST_OFFICE = re.compile(r"(?<!\w)p\.?o\.? ?$")
_CORNER = re.compile(
    rf"(?:the )?corner of (?:(?:{_WORD}|\d{{1,5}}\.?) ){{1,6}}"
    rf"and (?:{_WORD}|\d{{1,5}})(?: (?:{_WORD}|\d{{1,5}})){{0,4}}",
    re.IGNORECASE,
)
_AFTER_PREPOSITION = re.compile(
    r"(?<!\w)(?:on|of|at|to|in|is|from) "
    rf"((?:[^\W\d_a-z][\w'’.\-]* ){{1,5}}\d{{1,5}}[A-Za-z]?(?![\w%:/-]){_REST_OF})"
)
_POSTCODE = re.compile(
    r"(?:zip|postal|post)[ -]?code\W{0,3}(?:(?:is|was|to|of)\W{1,2}){0,2}"
    r"([A-Z]{0,2}[0-9][0-9A-Z]{1,6}(?:[ -][0-9A-Z]{2,4})?)\b",
    re.IGNORECASE,
)
_ENDS_IN_POSTCODE = re.compile(r"[ \n]\d{4,6}(?:-\d{3,4})?$")
_ENDS_IN_LINE_OF_POSTCODE = re.compile(r"[,\n] ?(?:[A-Z]{1,2}-)?\d{4,5}$")
_TOWN_AFTER = re.compile(r" [^\W\d_a-z][\w'’\-]+")
_ANNOUNCED = re.compile(
    r"(?:address|live[sd]? (?:at|on|in)|living at|reside[sd]? (?:at|on)|located (?:at|on)"
    r"|ship(?:ped)? (?:it )?to|deliver(?:ed)? (?:it )?to|mail(?:ed)? (?:it )?to|moved? to"
    r"|send (?:it|them) to|based at|office at|street|zip"
    r"|(?:is|be|are|here|return|arrived|taxi|one) (?:at|on|in|to)|are:|: )"
    r"\W{0,3}(?:(?:is|of|to|at|will be|has changed to|changed to)\W{1,2}){0,2}$",
    re.IGNORECASE,
)
_NEW_LINE = re.compile(r"[,\n][\s>?*,]*([a-z]+)\b")
_TOWN_WORDS = frozenset(words("western_town_words"))
_HOUSE = re.compile(r"[0-9]{1,6}[A-Za-z]?,? (?:[0-9]{1,5} ?)?[^\W\d_\u4e00-\u9fff]")
# "Flat 3, " before the number of a house.
_UNIT_BEFORE = re.compile(
    rf"(?<!\w)(?:(?:{_UNIT_WORD}|block|building|tower|level|no|number)\.? ?#?"
    r"(?:\w{1,6},? )?){1,3}$|(?<![\w/])\d{1,4}/$",
    re.IGNORECASE,
)
# House, postcode and town, whatever the street is called: "Unter den Linden 77, 10117 Berlin".
_TOWN = re.compile(
    r" \d{1,4}[A-Za-z]?,? (?:[A-Z]{1,2}-)?(?!(?:19|20)\d\d )\d{4,5} [^\W\d_a-z][\w'’.\-]+"
)
_LEFT_OF_TOWN = re.compile(rf"(?<![\w.])[^\W\d_a-z][\w'’.\-]*(?: {_WORD}){{0,4}}$")
_MONTH = re.compile(
    "(?:jan|febr)uary|march|april|may|june|july|august|(?:sept|nov|dec)ember|october"
)
_SOME_DIGIT = re.compile(r"\d")
_LETTERS = re.compile(r"[^\W\d_]+")


def find_western_addresses(text: str, is_word: IsWord) -> Iterator[Finding]:
    """Addresses in a folded text; `is_word` tells words of everyday English."""
    if _SOME_DIGIT.search(text) is None:
        return
    yield from _continental(text, is_word)
    yield from _numbered(text, is_word)
    lowered = text.lower()
    # A few capitals become two small letters; places in such a text would not agree.
    if len(lowered) == len(text):
        boxes = (_BOX.match(text, place) for place in _box_places(lowered))
    else:
        boxes = (match for match in _BOX.finditer(text))
    corners = _CORNER.finditer(text) if "corner of" in lowered else ()
    for match in (*filter(None, boxes), *corners):
        yield Finding(match.start(), _trimmed(match, is_word), Kind.ADDRESS)
    for match in _AFTER_PREPOSITION.finditer(text):
        first = match.group(1).partition(" ")[0].lower()
        if _MONTH.fullmatch(first) is None and _is_named(match.group(1), is_word):
            yield Finding(match.start(1), _trimmed(match, is_word), Kind.ADDRESS)
    for match in _TOWN.finditer(text):
        if left := _LEFT_OF_TOWN.search(text[max(0, match.start() - 60) : match.start()]):
            yield Finding(match.start() - len(left.group()), match.end(), Kind.ADDRESS)
    for match in _POSTCODE.finditer(text) if "code" in lowered else ():
        yield Finding(match.start(1), match.end(1), Kind.ADDRESS)


def _box_places(lowered: str) -> Iterator[int]:
    for word in _BOX_WORDS:
        for place in places(lowered, word):
            before = lowered[max(0, place - 6) : place]
            office = _POST_OFFICE.search(before)
            yield place - len(office.group()) if office else place


def _is_named(text: str, is_word: IsWord) -> bool:
    """Whether a part of the text is no word of everyday English."""
    return not all(is_word(word.lower()) for word in _LETTERS.findall(text))


def _numbered(text: str, is_word: IsWord) -> Iterator[Finding]:
    """Addresses that begin with the number of a house."""
    for number in _HOUSE.finditer(text):
        start = number.start()
        if match := _NUMBER_FIRST.match(text, start):
            unit = _UNIT_BEFORE.search(text, max(0, start - 40), start)
            begin = unit.start() if unit else start
            yield Finding(begin, _trimmed(match, is_word), Kind.ADDRESS)
        for pattern in (_NUMBER_LAST, _NUMBER_UNIT):
            match = pattern.match(text, start)
            if match and _is_named(match.group(), is_word):
                yield Finding(start, _trimmed(match, is_word), Kind.ADDRESS)
        if match := _LOOSE.match(text, start):
            before = text[max(0, start - 40) : start]
            if _ENDS_IN_POSTCODE.search(match.group()) or _ANNOUNCED.search(before):
                yield Finding(start, _trimmed(match, is_word), Kind.ADDRESS)


def _continental(text: str, is_word: IsWord) -> Iterator[Finding]:
    lowered = text.lower()
    # A few capitals become two small letters; places in such a text would not agree.
    if len(lowered) != len(text):
        lowered = text
    parts = near_digits(text, _REACH)
    for anchor in (a for part in parts for a in _STREET.finditer(lowered, *part)):
        left = _LEFT.search(text[max(0, anchor.start() - 60) : anchor.start()])
        right = _RIGHT.match(text, anchor.end())
        if left is None or right is None:
            continue
        start, end = anchor.start() - len(left.group()), _trimmed(right, is_word)
        if _SOME_DIGIT.search(text, start, min(end, anchor.end() + 60)):
            yield Finding(start, end, Kind.ADDRESS)


def _trimmed(match: re.Match[str], is_word: IsWord) -> int:
    """The end of an address without the clause that its last lines may belong to."""
    for line in _NEW_LINE.finditer(match.group()):
        if is_word(line.group(1)) and line.group(1) not in _TOWN_WORDS:
            return match.start() + line.start()
    end = match.end()
    if _ENDS_IN_LINE_OF_POSTCODE.search(match.string, match.start(), end):
        town = _TOWN_AFTER.match(match.string, end)
        return town.end() if town else end
    return end
