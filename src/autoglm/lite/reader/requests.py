"""What a request asks of the reader, if anything: the kind of answer, the words, the text.

Rules over the instruction only. What they do not recognise goes to the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autoglm.lite.reader.facts import asked_fields, schema_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoglm.types import Request

Kind = Literal["summary", "answer", "facts", "actions", "intent", "speakers"]

_MAX_INSTRUCTION_CHARS = 400
_MIN_TEXT_CHARS = 200
_MAX_TEXT_CHARS = 2_000_000  # what is known of a text takes some hundred bytes a character
_INTENT = re.compile(
    r"\b(?:what (?:is|was)|what's|classify|name|find|detect|give)\b.{0,40}\bintent(?:ion)?\b|意图",
    re.IGNORECASE,
)
_FACTS = re.compile(r"\bjson\b", re.IGNORECASE)
_ACTIONS = re.compile(
    r"\baction items?\b|\bto-?dos?\b|\bwho (?:has|needs) to do what\b|待办|行动项", re.IGNORECASE
)
_SPEAKERS = re.compile(
    r"^who (?:took part|participated|attended|spoke|was (?:there|present|in the meeting))\b"
    r"|\b(?:list|name)\b.{0,20}\b(?:speakers|participants|attendees)\b"
    r"|参会人|与会者|所有发言人|哪些人(?:发言|参加)",
    re.IGNORECASE,
)
_SUMMARY = re.compile(
    r"\bsummar(?:y|ies|i[sz]e)\b|\b(?:key|main) (?:points?|takeaways?)\b|\boverview\b"
    r"|\btl;?dr\b|\bminutes of\b|\bbullet points?\b"
    r"|\b(?:describe|outline|recap)\b|总结|概括|要点|摘要|归纳|纪要|主要内容|说了(?:些)?什么|主要观点",
    re.IGNORECASE,
)
_OTHER = re.compile(
    r"\b(?:translate|rewrite|rephrase|paraphrase|proofread)\b"
    r"|\b(?:write|compose|make|as|into|^) ?(?:me )?(?:it |this )?(?:into )?an?"
    r" (?:poem|haiku|song)\b"
    r"|^(?:please )?(?:continue|polish)\b|\b(?:give|suggest|write)\b.{0,20}\btitle\b"
    r"|\b(?:write|compose|draft)\b.{0,30}\b(?:story|essay|e-?mail|letter|code|reply)\b"
    r"|翻译|改写|润色|标题|续写|作诗|写一首|写一篇|写代码|写一封",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"[?？]\s*$|^(?:who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does"
    r"|did|can|could|in what|on what)\b"
    r"|什么|谁|哪|何|多少|几|怎|为什么|是否|吗",
    re.IGNORECASE,
)
# An English question for words of the text, whatever else stands in it: "Who wrote the song?".
_ASKS = re.compile(
    r"^(?:(?:in|into|from|at|on|to|for|by|of|with|under) )?"
    r"(?:who|whom|whose|when|where|which|why|what|how)\b"
    r"(?! (?:would|do|can|could|should) (?:you|i|we)\b)"
    r"|^name (?:an?|one|two|three|some)\b",
    re.IGNORECASE,
)
_ASKS_SUMMARY = re.compile(
    r"\bsummary of\b|\bsummari[sz]e\b|\b(?:key|main) (?:points?|takeaways?)\b|\boverview\b",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"^(?:请)?(?:根据|按照)?(?:下文|原文|以下(?:内容|文字|文本))?(?:回答问题|回答)?[：:]\s*"
    r"|^answer(?: the question)?[^:]{0,40}:\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that the reader understands.

    `fields` are names and meanings of a JSON object. `is_earlier` says that the text was part of
    an earlier message: perhaps the request is not about it.
    """

    kind: Kind
    query: str
    text: str
    fields: Mapping[str, str]
    is_earlier: bool = False


def recognise(request: Request) -> Asked | None:
    """What is asked; None when it is nothing for the reader."""
    if request.prompt is not None or request.grammar or request.sampling.num_logprobs is not None:
        return None
    if request.messages[-1].role != "user" or (request.tools and request.tool_choice != "none"):
        return None
    last = request.messages[-1].content.strip()
    instruction, text = (last, request.text) if request.text is not None else _cut(last)
    is_earlier = text is None
    if text is None:
        text = _earlier_text(request)
    if text is None or not text.strip() or len(instruction) > _MAX_INSTRUCTION_CHARS:
        return None
    if len(text) > _MAX_TEXT_CHARS:
        return None
    query = _ABOUT.sub("", instruction).strip()
    if request.schema is not None or _FACTS.search(query):
        schema = request.schema
        fields = asked_fields(query) if schema is None else schema_fields(schema)
        return Asked("facts", query, text, fields, is_earlier) if fields else None
    kind = _kind(query)
    return None if kind is None else Asked(kind, query, text, {}, is_earlier)


def _kind(query: str) -> Kind | None:
    is_for_words = bool(_ASKS.search(query)) and not _ASKS_SUMMARY.search(query)
    if _OTHER.search(query) and not is_for_words:
        return None
    rules: tuple[tuple[re.Pattern[str], Kind], ...] = (
        (_INTENT, "intent"),
        (_SPEAKERS, "speakers"),
        (_ACTIONS, "actions"),
        (_ASKS if is_for_words else _SUMMARY, "answer" if is_for_words else "summary"),
        (_QUESTION, "answer"),
    )
    return next((kind for pattern, kind in rules if pattern.search(query)), None)


def _cut(message: str) -> tuple[str, str | None]:
    """Instruction and text of one message: the text stands below, or above the last line."""
    head, _, rest = message.partition("\n")
    if not rest:
        return _cut_line(message)
    body, _, tail = message.rpartition("\n")
    ways = ((head.strip(), rest.strip()), (tail.strip(), body.strip()))
    for instruction, text in ways:
        is_short = len(instruction) <= min(_MAX_INSTRUCTION_CHARS, len(text))
        if is_short and instruction and (_FACTS.search(instruction) or _kind(instruction)):
            return instruction, text
    return message, None


def _cut_line(line: str) -> tuple[str, str | None]:
    """An intent may be asked for in one line, `What is the intent of: book a table`."""
    head, mark, rest = re.sub("：", ":", line, count=1).partition(":")
    if mark and rest.strip() and _INTENT.search(head):
        return head, rest.strip()
    return line, None


def _earlier_text(request: Request) -> str | None:
    """The latest long message of the user's before the last: what a chat goes on about."""
    for message in reversed(request.messages[:-1]):
        if message.role == "user" and len(message.content) >= _MIN_TEXT_CHARS:
            _, text = _cut(message.content)
            return text or message.content
    return None
