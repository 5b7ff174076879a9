"""Instruction examples over running text: title, rewriting, cloze questions, facts as JSON.

Every answer is read off the text by rule, so it is right by construction: the first line of an
article, a sentence without its fillers, the words a question leaves out, the dates and amounts.
"""

import json
import random
import re
from collections.abc import Callable, Iterator

from autoglm.lite.salience import compress, sentences
from autoglm.lite.sources import Lang
from autoglm.lite.tasks import NOT_FOUND, Example

_TITLE_PROMPTS = {
    "zh": ("给下面的文字起一个标题", "请为这段内容拟一个标题", "这篇文章的标题是什么？"),
    "en": ("Give this text a title", "Suggest a title for the text below", "Write a title"),
}
_REWRITE_PROMPTS = {
    "zh": ("把下面的口语改写得简洁一些", "请去掉口头语，改写这段话", "改写成书面语"),
    "en": ("Rewrite this without filler words", "Make this sentence concise", "Clean up this text"),
}
_CLOZE_PROMPTS = {
    "zh": ("根据原文填空：{}", "原文中“{}”的空格处是什么？", "请根据下文补全：{}"),
    "en": ("Fill in the blank from the text: {}", 'What belongs in the blank? "{}"'),
}
_JSON_PROMPTS = {
    "zh": (
        "请以JSON格式提取文中的日期和金额，字段为dates、amounts",
        "提取日期与金额，输出JSON（dates、amounts）",
    ),
    "en": (
        "Extract all dates and amounts as JSON with the fields dates and amounts",
        "List dates and amounts as JSON (dates, amounts)",
    ),
}
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = {
    "zh": re.compile(
        r"(?:\d{2,4}年)?\d{1,2}月(?:\d{1,2}[日号])?|\d{4}年|(?:上|下|这)?(?:周|星期)[一二三四五六日天]"
    ),
    "en": re.compile(
        rf"\b(?:{_MONTH})(?: \d{{1,2}}(?:st|nd|rd|th)?)?(?:,? \d{{4}})?\b"
        r"|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b|\b(?:19|20)\d\d\b"
    ),
}
_AMOUNT = {
    "zh": re.compile(r"\d[\d,.]*(?:[万亿千百]+)?(?:元|美元|块|\uff05|%|人|个)"),
    "en": re.compile(r"\$\d[\d,.]*(?: (?:million|billion))?|\b\d[\d,.]*(?: percent|%| dollars)"),
}
_NAME_EN = re.compile(r"(?<=[a-z,] )(?:[A-Z][a-z]+ )?[A-Z][a-z]+(?= [a-z])")
_CLOZE_ZH = re.compile(r"[A-Za-z][A-Za-z0-9.]+|《[^》]{2,12}》|“[^”]{2,12}”")
_MAX_TITLE = {"zh": 40, "en": 90}
_ENDS = tuple("。！？；：，.!?;:,|")


def title(lines: list[str], lang: Lang, rng: random.Random) -> Example | None:
    """The first line of an article that begins with one."""
    head, *rest = lines
    is_title = 4 < len(head) <= _MAX_TITLE[lang] and not head.endswith(_ENDS)
    if not is_title or len(rest) < 2 or len(rest[0]) < 2 * len(head):
        return None
    return Example("title", rng.choice(_TITLE_PROMPTS[lang]), "\n".join(rest), head)


def rewrite(lines: list[str], lang: Lang, rng: random.Random) -> Example | None:
    """A spoken line without its openers and fillers."""
    line = rng.choice(lines)
    spoken = line.split("：" if lang == "zh" else ": ", 1)[-1]
    found = sentences(spoken, lang)[:3]
    limit = 120 if lang == "zh" else 300
    plain = [compress(sentence, lang, limit) for sentence in found]
    mark, gap = ("。", "") if lang == "zh" else (".", " ")
    answer = gap.join(part[:1].upper() + part[1:] + mark for part in plain if len(part) > 3)
    text = gap.join(found)
    if not answer or len(answer) > 0.95 * len(text) or len(answer) < 0.4 * len(text):
        return None
    return Example("rewrite", rng.choice(_REWRITE_PROMPTS[lang]), text, answer)


def _targets(sentence: str, lang: Lang) -> list[str]:
    found = _DATE[lang].findall(sentence) + _AMOUNT[lang].findall(sentence)
    found += (_CLOZE_ZH if lang == "zh" else _NAME_EN).findall(sentence)
    return [target for target in found if sentence.count(target) == 1]


def cloze(lines: list[str], lang: Lang, rng: random.Random) -> Example | None:
    """A sentence with a date, an amount or a name left out; or a sentence of another text."""
    text = "\n".join(lines)
    candidates = [
        (sentence, target)
        for sentence in sentences(text, lang)
        if 12 <= len(sentence) <= 200
        for target in _targets(sentence, lang)
    ]
    if not candidates:
        return None
    sentence, target = rng.choice(candidates)
    prompt = rng.choice(_CLOZE_PROMPTS[lang]).format(sentence.replace(target, "____"))
    if rng.random() < 0.3:
        rest = [line for line in lines if target not in line]
        if len(rest) < 2:
            return None
        return Example("cloze", prompt, "\n".join(rest), NOT_FOUND[lang])
    return Example("cloze", prompt, text, target)


def facts(lines: list[str], lang: Lang, rng: random.Random) -> Example | None:
    """Dates and amounts as JSON, in order and once each."""
    text = "\n".join(lines)
    dates = list(dict.fromkeys(_DATE[lang].findall(text)))
    amounts = list(dict.fromkeys(_AMOUNT[lang].findall(text)))
    is_empty = not dates and not amounts
    if len(dates) + len(amounts) > 12 or (is_empty and rng.random() < 0.97):
        return None
    answer = json.dumps({"dates": dates, "amounts": amounts}, ensure_ascii=False)
    return Example("facts", rng.choice(_JSON_PROMPTS[lang]), text, answer)


Builder = Callable[[list[str], Lang, random.Random], Example | None]

PASSAGE_TASKS: tuple[tuple[Builder, float], ...] = (
    (title, 0.25),
    (rewrite, 0.15),
    (cloze, 0.4),
    (facts, 0.2),
)


def examples(
    pieces: list[str], lang: Lang, max_chars: int, rng: random.Random
) -> Iterator[Example]:
    """One or more tasks for every piece; a title needs its first line, the others any window."""
    builders, weights = zip(*PASSAGE_TASKS, strict=True)
    for piece in pieces:
        lines = [line for line in piece.split("\n") if line]
        builder: Builder = rng.choices(builders, weights)[0]
        first = 0 if builder is title else rng.randrange(max(1, len(lines) - 3))
        window = _window(lines[first:], rng.randint(max_chars // 4, max_chars))
        example = builder(window, lang, rng) if window else None
        if example:
            yield example


def _window(lines: list[str], max_chars: int) -> list[str]:
    kept: list[str] = []
    size = 0
    for line in lines:
        size += len(line)
        if size > max_chars:
            break
        kept.append(line)
    return kept
