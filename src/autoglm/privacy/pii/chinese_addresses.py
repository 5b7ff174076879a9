"""Chinese addresses: a region, a street with a number, or both, from the large to the small.

Only clauses that hold the mark of an address are searched, which keeps ordinary text fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.pii.lexicon import any_of, characters

_FEWEST = 5
_NUMBER = "[0-9\u96f6\u3007一二三四五六七八九十百]"
# A room after "unit 3", unless the number counts something.
_COUNTED = "[.%年月日时点分元块个人万亿千套平米件次岁]"
_ROOM = rf"{_NUMBER}{{2,5}}(?!{_NUMBER}|{_COUNTED}|{any_of('zh_units')})"
# Characters of words that do not stand inside an address.
_FILL = rf"(?:[^\W_{characters('zh_outside_addresses')}]|(?<=开)发)"
_UNIT = (
    rf"(?:[A-Za-z]?{_NUMBER}{{1,6}}[A-Za-z]?(?:-{_NUMBER}{{1,5}}){{0,3}}|[A-Za-z甲乙丙丁东西南北])"
    rf"(?:號之[0-9]+|{any_of('zh_units')})(?:[- ]?{_ROOM})?"
)
_STREET = rf"(?:{any_of('zh_streets')}|{_NUMBER}段)"
_REGION = (
    rf"(?:(?:{any_of('zh_provinces')})(?:省|市|特别行政区|(?:壮族|回族|维吾尔)?自治区)?"
    rf"|{_FILL}{{2,8}}?(?:省|自治区|自治州))"
)
_TAIL = rf"(?:[ ,(]?(?:{_UNIT}|{_FILL}{{0,10}}?{_STREET}|{_FILL}{{0,8}}?{_UNIT})\)?)"
_ADDRESS = re.compile(
    rf"(?:\d{{3,6}} )?"
    rf"(?:{_REGION} ?(?:{_FILL}{{1,9}}?(?:市|区|县|旗|州|盟|地区|區|縣) ?){{0,3}}{_TAIL}{{1,8}}"
    rf"|(?:{_FILL}{{1,7}}?(?:市|区|县|旗|镇|乡|街道|區|縣|鎮|鄉) ?){{1,3}}{_TAIL}{{1,8}}"
    rf"|{_FILL}{{1,8}}?{_STREET} ?{_UNIT}{_TAIL}{{0,6}})"
    rf"(?: ?\d{{6}}(?!\d))?"
)
_CLAUSE = re.compile(r"[^。！？；，、：\n]+")
_MARK = re.compile(
    rf"{_NUMBER} ?(?:{any_of('zh_units')})"
    r"|[省市区县旗區縣].{1,12}[路街道村镇乡巷苑园城座]"
)
# "Address:", and then anything that names a place.
_INTRODUCTION = re.compile(rf"(?:{any_of('zh_address_words')})(?:是|为|在|：|:|,|，| ){{0,3}}")
_INTRODUCED = re.compile(r"[^，。；！？,;!?\n\s]{4,40}")
_PLACE = re.compile(rf"[路街道村镇乡区县市园城厦号楼巷弄苑區縣號樓]|{any_of('zh_provinces')}")


def find_chinese_addresses(text: str) -> Iterator[Finding]:
    """Addresses in a folded text."""
    for clause in _CLAUSE.finditer(text):
        if _MARK.search(clause.group()) is None:
            continue
        for match in _ADDRESS.finditer(text, clause.start(), clause.end()):
            if len(match.group()) >= _FEWEST:
                yield Finding(match.start(), match.end(), Kind.ADDRESS)
    for word in _INTRODUCTION.finditer(text):
        rest = _INTRODUCED.match(text, word.end())
        if rest is not None and _PLACE.search(rest.group()):
            yield Finding(rest.start(), rest.end(), Kind.ADDRESS)
