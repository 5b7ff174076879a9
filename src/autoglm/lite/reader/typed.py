"""Dates, times, amounts and addresses as they stand in a text, each once, in order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoglm.lite.sources import Lang

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_DAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_ORDINAL = r"\d{1,2}(?:st|nd|rd|th)"
_ORDINAL_WORD = (
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|twenty-\w+|thirtieth|thirty-first)"
)
_COUNT = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_DATE = {
    "en": re.compile(
        rf"\b(?:the )?{_ORDINAL} of (?:{_MONTH}|this month|next month)(?:,? \d{{4}})?"
        rf"|\b\d{{1,2}} {_MONTH}(?:,? \d{{4}})?\b"
        rf"|\b{_MONTH} (?:the )?(?:{_ORDINAL}|\d{{1,2}})\b(?:,? \d{{4}})?"
        r"|\b(?-i:January|February|March|April|June|July|August|September|October|November"
        r"|December)"
        rf"\b(?: \d{{4}})?|\bin May\b|\b(?:(?:next|this|last) )?{_DAY}\b(?: next week| this week)?"
        r"|\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}/\d{1,2}(?:/\d{2,4})?\b|\b(?:19|20)\d\d\b"
        rf"|\bthe {_ORDINAL}(?! (?:of|floor|time|place|one))\b"
        rf"|(?:(?<=\bon )|(?<=\bby )|(?<=\bbefore )|(?<=\buntil )"
        rf"|(?<=\bfrom ))the {_ORDINAL_WORD}\b"
        r"(?! (?:of|floor|time|place|one|day))"
        r"|\b(?:the )?day after tomorrow\b|\b(?:today|tomorrow|tonight|yesterday)\b"
        r"|\b(?:next|last) (?:week|month|year|spring|summer|autumn|winter)\b",
        re.IGNORECASE,
    ),
    "zh": re.compile(
        r"(?:\d{2,4}年)?(?:\d{1,2}|[一二三四五六七八九十]{1,3})月(?:底|初|中旬|(?:\d{1,2}"
        r"|[一二三四五六七八九十]{1,3})[日号])?"
        r"|\d{4}年|\d{4}-\d{2}-\d{2}|(?<![月\d])(?:\d{1,2}|[一二三四五六七八九十]{2,3})号"
        r"|(?:上|下|这|本)?(?:个)?(?:周|星期|礼拜)[一二三四五六日天末]|今天|明天|后天|昨天|今晚"
        r"|(?:上|下|这|本)(?:个)?(?:周|星期|月|季度)|月底|年底|明年|今年"
    ),
}
_TIME = {
    "en": re.compile(
        r"\b(?:half past|quarter (?:past|to)) (?:\d{1,2}|[a-z]+)(?: in the (?:morning|afternoon"
        r"|evening))?"
        r"|\b\d{1,2}(?:[:.]\d{2})? ?(?:[ap]\.?m\b\.?|o'clock)(?: in the (?:morning|afternoon"
        r"|evening))?"
        r"|\b(?:morning|afternoon|evening) \d{1,2}:\d{2}|\b\d{1,2}:\d{2}\b(?: in the (?:morning"
        r"|afternoon|evening))?"
        rf"|\b{_COUNT} o'clock\b|\b{_COUNT} (?:in the (?:morning|afternoon|evening))|\b(?:noon"
        rf"|midnight)\b",
        re.IGNORECASE,
    ),
    "zh": re.compile(
        r"(?:上午|下午|晚上|早上|中午|凌晨|傍晚)?(?:\d{1,2}|[一二两三四五六七八九十]{1,3})点(?:钟"
        r"|半|一刻|三刻|[\d一二三四五六七八九十]+分?)?"
        r"|\d{1,2}[:：]\d{2}"
    ),
}
_AMOUNT = {
    "en": re.compile(
        r"[$£€]\s?\d[\d,.]*\d?(?: (?:million|billion|thousand))?"
        r"|\b(?:\d[\d,.]*\d|\d)(?: ?%| percent\b| per cent\b| (?:million |thousand )?(?:dollars"
        r"|euros?|pounds|bucks|cents)\b)"
        rf"|\b(?:{_COUNT}|twenty|thirty|forty|fifty|sixty|seventy|eighty"
        rf"|ninety)(?:[- ](?:{_COUNT}|hundred|thousand))*"
        r" (?:percent|per cent|dollars|euros?|pounds|cents)\b",
        re.IGNORECASE,
    ),
    "zh": re.compile(
        r"(?:\d[\d,.]*|[一二两三四五六七八九十百千]+)(?:[万亿千百]+)?(?:多)?(?:元|美元|欧元|块钱|%)"
        r"|百分之[\d一二三四五六七八九十百]+"
    ),
}
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_PHONE = re.compile(r"(?<![\d-])(?:\+\d{1,3}[ -]?)?(?:\(?\d{3,4}\)?[ -]?)\d{3,4}[ -]?\d{4}(?!\d)")


def dates(text: str, lang: Lang) -> list[str]:
    """Days, months and years, as they are written."""
    return _once(_DATE[lang].findall(text), lang)


def times(text: str, lang: Lang) -> list[str]:
    """Times of day."""
    return _once(_TIME[lang].findall(text), lang)


def amounts(text: str, lang: Lang) -> list[str]:
    """Sums of money and shares in percent."""
    return _once(_AMOUNT[lang].findall(text), lang)


def emails(text: str, lang: Lang) -> list[str]:
    """E-mail addresses."""
    return _once(_EMAIL.findall(text), lang)


def phones(text: str, lang: Lang) -> list[str]:
    """Telephone numbers."""
    return _once(_PHONE.findall(text), lang)


def _once(found: list[str], lang: Lang) -> list[str]:
    """Without repeats, whatever their case; English loses "the" and "in" before a date."""
    kept: dict[str, str] = {}
    for value in found:
        plain = re.sub(r"^(?:the|in) ", "", value.strip(), flags=re.IGNORECASE).rstrip(",.")
        kept.setdefault(plain.lower(), plain if lang == "en" else value)
    return list(kept.values())
