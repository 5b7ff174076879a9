"""Spoken sentences as a summary says them: without fillers, and in English as reported speech.

Words are left out, pronouns and tenses change; nothing is added but who said it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoglm.lite.reader.text import Sentence
    from autoglm.lite.sources import Lang

_FILLER = re.compile(
    r"(?<![\w'])(?:um+|uh+|uhm|er|erm|mm-hmm|hmm|mm|you know|i mean|sort of|kind of|like i said"
    r"|i guess|actually|basically|really|just|well|obviously|probably)(?![\w'])[,.]? ?",
    re.IGNORECASE,
)
_STUTTER = re.compile(r"\b([a-z]{1,3}) (?=\1[a-z])", re.IGNORECASE)
_REPEAT = re.compile(r"\b(\w+(?: \w+)?),?(?: \1\b)+", re.IGNORECASE)
_OPENER = re.compile(
    r"^(?:(?:so|and|but|well|okay|ok|yeah|yes|no|right|alright|then|also|now|sure|because|or|which"
    r"|'cause)\b[,.\s]*)+",
    re.IGNORECASE,
)
_OPINION = re.compile(
    r"^(?:i (?:do |really )?(?:think|thought|guess|suppose|believe|feel|reckon)|i'd say"
    r"|in my opinion)(?: that)?,? ",
    re.IGNORECASE,
)
_GAPS = re.compile(r"\s+")
_GAP_BEFORE_MARK = re.compile(r"\s+([,.?!;:])")
_EDGES = " ,.;:-?!"
_REPORTED = tuple(
    (re.compile(pattern if "I" in pattern else f"(?i:{pattern})"), said)
    for pattern, said in (
        (r"\bI'm\b|\bI am\b|\bI was\b", "they were"),
        (r"\bI've\b", "they had"),
        (r"\bI'll\b|\bI'd\b", "they would"),
        (r"\bI\b", "they"),
        (r"\bmy\b", "their"),
        (r"\bme\b", "them"),
        (r"\bwe're\b|\bwe are\b|\bwe were\b", "{we} {were}"),
        (r"\bwe've\b|\bwe have\b", "{we} had"),
        (r"\bwe'll\b|\bwe'd\b", "{we} would"),
        (r"\bwe\b", "{we}"),
        (r"\bour\b", "their"),
        (r"\bus\b", "them"),
        (r"\bcan\b", "could"),
        (r"\bwill\b", "would"),
        (r"\bit's\b", "it was"),
        (r"\bthat's\b", "that was"),
        (r"\bthere's\b", "there was"),
        (r"\bis\b", "was"),
        (r"\bare\b", "were"),
        (r"\bdon't\b", "did not"),
        (r"\bcan't\b", "could not"),
        (r"\bgonna\b", "going to"),
        (r"\bhave\b|\bhas\b", "had"),
    )
)
_FILLER_ZH = re.compile(
    r"然后|就是说|就是(?!说)|对吧|是吧|呢(?=[，。])|啊|嗯|呃|哎|诶|的话(?=，)|是不是|怎么说|对不对|okok|OK|ok"
    r"|那(?:么|个)?(?=，)|(?:^|(?<=，))(?:所以|那|但是|那么|其实|实际上|当然|包括|这个|首先)(?=.)"
    r"|(?<![在对把从用于有是])这个|那个|所以说"
)
_REPEAT_ZH = re.compile(r"([\u3400-\u9fff]{2,4})\1+|([我的是在就有这那你他])\2+")
_EDGES_ZH = "，、,；;。：:？! ！? "


def clean(text: str, lang: Lang) -> str:
    """A sentence without fillers, stutters and openers, and without its end mark."""
    if lang == "zh":
        plain = _FILLER_ZH.sub("", text)
        plain = _REPEAT_ZH.sub(lambda match: match[1] or match[2], plain)
        return plain.strip(_EDGES_ZH)
    plain = _STUTTER.sub("", _FILLER.sub("", text))
    plain = _REPEAT.sub(r"\1", _REPEAT.sub(r"\1", plain))
    plain = _OPENER.sub("", plain.strip(_EDGES))
    return _GAP_BEFORE_MARK.sub(r"\1", _GAPS.sub(" ", plain)).strip(_EDGES)


def report(chosen: Sequence[Sentence], lang: Lang, *, num_speakers: int) -> str:
    """The chosen sentences as lines of a summary; a line for each run of one speaker."""
    lines: list[str] = []
    speaker: str | None = None
    for sentence in chosen:
        plain = clean(sentence.text, lang)
        if not plain:
            continue
        is_new = sentence.speaker != speaker
        speaker = sentence.speaker
        if lang == "zh":
            is_question = sentence.text.rstrip("”」").endswith(("？", "?"))
            _add_zh(lines, speaker, plain, is_question=is_question, is_new=is_new)
        else:
            is_question = sentence.text.rstrip('"').endswith("?")
            _add_en(lines, speaker, plain, num_speakers, is_question=is_question, is_new=is_new)
    return "\n".join(f"- {line}" for line in lines)


def _add_zh(lines: list[str], speaker: str, plain: str, *, is_question: bool, is_new: bool) -> None:
    plain += "？" if is_question else "。"
    if not is_new and lines:
        lines[-1] += plain
    else:
        lines.append(f"{speaker}：{plain}" if speaker else plain)


def _add_en(
    lines: list[str],
    speaker: str,
    plain: str,
    num_speakers: int,
    *,
    is_question: bool,
    is_new: bool,
) -> None:
    if not speaker:
        lines.append(_capital(plain) + ("?" if is_question else "."))
        return
    is_opinion = bool(_OPINION.match(plain))
    we = ("the group", "was") if num_speakers > 2 else ("they", "were")
    plain = _indirect(_OPINION.sub("", plain), we)
    if not is_new:
        lines[-1] += f" {_capital(plain)}."
        return
    verb = "asked:" if is_question else "thought that" if is_opinion else "said that"
    end = "?" if is_question else "."
    lines.append(f"{speaker} {verb} {_small(plain)}{end}")


def _indirect(plain: str, we: tuple[str, str]) -> str:
    for pattern, said in _REPORTED:
        plain = pattern.sub(said.format(we=we[0], were=we[1]), plain)
    return plain


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    """Lower-case the first letter unless the word looks like a name or an abbreviation."""
    word = text.split(" ", 1)[0]
    return text if word[1:] != word[1:].lower() else text[:1].lower() + text[1:]
