"""What was agreed to be done: sentences that promise or ask for it, with owner and due date.

Rules over the wording. An owner is the speaker of "I will", or a participant who is named; a due
date is a date of the sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoglm.lite.reader.reported import clean
from autoglm.lite.reader.typed import dates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoglm.lite.reader.text import Document, Sentence

_VERBS = (
    r"(?:send|write|prepare|finish|fix|add|update|check|call|book|order|draft|review|test|ask"
    r"|talk|speak|share|draw"
    r"|set up|put|look (?:at|into|up)|find out|get|give|bring|organi[sz]e|arrange|contact|email"
    r"|publish"
    r"|report|present|make|do|run|train|print|schedule|create|complete|work on|start|follow up"
    r"|take care)"
)
_PROMISE = re.compile(
    rf"\bI(?:'ll| will| am going to|'m going to| can| shall) (?:\w+ ){{0,2}}?{_VERBS}\b",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    rf"\b(?:can|could|would|will) you (?:please )?(?:\w+ )?{_VERBS}\b|\bplease (?:\w+ )?{_VERBS}\b"
    rf"|\byou(?:'ll| will| should| need to| have to) (?:\w+ )?{_VERBS}\b",
    re.IGNORECASE,
)
_PLAN = re.compile(
    rf"\b(?:we|somebody|someone)(?:'ll| will| need to| have to| should| must) (?:\w+ )?{_VERBS}\b"
    rf"|\blet's (?:\w+ )?{_VERBS}\b|\baction item\b|\bneeds? to be (?:done|sent|written|finished"
    rf"|fixed)\b",
    re.IGNORECASE,
)
_NAMED = (
    rf" (?:will|is going to|should|needs? to|has to|can you|could you|please) (?:\w+ )?{_VERBS}\b"
)
_PROMISE_ZH = re.compile(
    r"我(?:来|会|去|负责|这边(?:会|来|负责)|可以)[^，。]{0,12}(?:写|做|发|联系|准备|整理|提交"
    r"|完成|安排|加|改|跟进|确认|打印|通知|统计|检查|申请|负责)"
    r"|(?:交给我|我负责)|(?:今天|明天|下周|周[一二三四五六日])[^，。]{0,10}(?:给你|发给|交给|提交)"
)
_REQUEST_ZH = re.compile(
    r"请[^，。]{1,8}(?:写|做|发给|发送|联系|准备|整理|提交|完成|安排|跟进|确认|通知|统计|检查"
    r"|提供|负责)"
    r"|你(?:来|去|负责|把)[^，。]{1,16}|麻烦[你您][^，。]{2,14}"
)
_PLAN_ZH = re.compile(
    r"(?:由|请)[^，。]{1,8}负责|[^，。我你他她谁]{2,4}负责|由[^，。]{2,6}(?:联系|完成|准备|整理"
    r"|跟进)"
    r"|(?:之前|以前)(?:完成|给我|提交|交|发)|会后[^。]{2,}|尽快[^。]{2,}|(?:需要"
    r"|必须)在[^，。]{2,12}(?:前|之前)"
)
_QUESTION = re.compile(r"[?？]\s*$")
_MOST = 12


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do; `owner` and `due` are empty when nobody said."""

    task: str
    owner: str
    due: str


def actions(document: Document) -> list[Action]:
    """The actions of a dialogue or a text, in order, at most a dozen."""
    names = [name for name in dict.fromkeys(s.speaker for s in document.sentences) if name]
    found: list[Action] = []
    for index, sentence in enumerate(document.sentences):
        owner = _owner(document.sentences, index, names, document.lang)
        if owner is None or (document.is_dialogue and not sentence.speaker):
            continue
        due = dates(sentence.text, document.lang)
        task = clean(sentence.text, document.lang)
        if task:
            found.append(Action(task, owner, due[0] if due else ""))
    return found[:_MOST]


def _owner(
    sentences: Sequence[Sentence], index: int, names: Sequence[str], lang: str
) -> str | None:
    """Who is to act; empty when it is not said, None when the sentence is no action."""
    sentence = sentences[index]
    text = sentence.text
    promise, request, plan = (
        (_PROMISE_ZH, _REQUEST_ZH, _PLAN_ZH) if lang == "zh" else (_PROMISE, _REQUEST, _PLAN)
    )
    named = _named(text, names, lang)
    if lang == "en" and named and re.search(re.escape(named) + ",?" + _NAMED, text, re.IGNORECASE):
        return named
    if promise.search(text) and not _QUESTION.search(text):
        return sentence.speaker
    if request.search(text):
        return named or _next_speaker(sentences, index)
    if plan.search(text) and not _QUESTION.search(text):
        return named
    return None


def _named(text: str, names: Sequence[str], lang: str) -> str:
    """The participant whose name, or in English first name, stands in the text."""
    for name in names:
        short = name if lang == "zh" else name.split()[0]
        if short and (
            short in text if lang == "zh" else re.search(rf"\b{re.escape(short)}\b", text)
        ):
            return name
    return ""


def _next_speaker(sentences: Sequence[Sentence], index: int) -> str:
    """Who answers a request is asked by it."""
    speaker = sentences[index].speaker
    later = (other.speaker for other in sentences[index:] if other.speaker != speaker)
    return next(later, "")
