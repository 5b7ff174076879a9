"""Answers what `requests` recognises, from the text that it is about."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

import numpy as np

from autoglm.lite.reader.actions import actions
from autoglm.lite.reader.answers import AnswerFinder
from autoglm.lite.reader.facts import facts
from autoglm.lite.reader.intents import IntentClassifier
from autoglm.lite.reader.relevance import Relevance
from autoglm.lite.reader.summary import Summarizer
from autoglm.lite.reader.text import read_document
from autoglm.lite.reader.topics import has_topic, names_topic
from autoglm.lite.reader.weights import READER_NAME, TermTable, read_tensors, tensor

if TYPE_CHECKING:
    from pathlib import Path

    from autoglm.lite.reader.requests import Asked
    from autoglm.lite.reader.text import Document, Sentence
    from autoglm.lite.reader.weights import Tensors

NOT_FOUND = {"zh": "原文没有提到。", "en": "The text does not say."}
_MOST_CHARS = 6000  # that the network for answers reads at once
_AROUND = 6  # sentences to both sides of one that has the question's words
_NO_ACTIONS = {"zh": "没有明确的待办事项。", "en": "There are no clear action items."}
_MARK = {"zh": "：", "en": ": "}
_SHORT = re.compile(
    r"^(?:who|whom|whose|when|where|by when)\b|\bhow (?:many|much|long|often|old|far)\b"
    r"|\bwhat (?:time|date|day|year|month|percentage|number|price)\b|^谁|是谁|由谁"
    r"|哪[天里儿年月个位]"
    r"|何时|几[点号月天个]|什么时[候间]|多少|多久|多长|在哪",
    re.IGNORECASE,
)


class Reader:
    """The trained parts, loaded once. Safe to use from several threads."""

    def __init__(self, tensors: Tensors) -> None:
        """Raises ModelFileError."""
        step = tensor(tensors, "rarity.step", "F32", 1)
        rarity = TermTable(tensor(tensors, "rarity", "U8", 1), float(step[0]))
        self._rarity = rarity
        self._summarizer = Summarizer(tensors, rarity)
        self._answers = AnswerFinder(tensors, rarity)
        self._intents = IntentClassifier(tensors)

    @classmethod
    def of_bundle(cls, directory: Path) -> Self | None:
        """The reader in a bundle, if it has one. Raises ModelFileError."""
        path = directory / READER_NAME
        return cls(read_tensors(path)) if path.is_file() else None

    def answer(self, asked: Asked) -> str | None:
        """The answer; None when the text holds none and the model shall write one."""
        if asked.kind == "intent":
            return self._intents.classify(asked.text)
        document = read_document(asked.text)
        if asked.kind == "facts":
            return facts(document, asked.text, asked.fields)
        if asked.kind == "actions":
            return _action_lines(document)
        if asked.kind == "speakers":
            names = dict.fromkeys(s.speaker for s in document.sentences if s.speaker)
            return ("、" if document.lang == "zh" else ", ").join(names) or None
        if asked.kind == "answer" and not _wants_more(asked.query, document):
            found = self._answers.find(self._near(asked, document), asked.query, document.lang)
            return found or (None if asked.is_earlier else NOT_FOUND[document.lang])
        may_lack = asked.kind == "answer" or names_topic(asked.query)
        if may_lack and not has_topic(document, asked.query, self._rarity):
            return None if asked.is_earlier else NOT_FOUND[document.lang]
        return self._summarizer.summarize(document, asked.query) or None

    def _near(self, asked: Asked, document: Document) -> str:
        """The text or, of a long one, the passages that have most of the question's words."""
        if len(asked.text) <= _MOST_CHARS:
            return asked.text
        sentences = document.sentences
        _, near, _ = Relevance(document, self._rarity).coverage(asked.query)
        chosen: set[int] = set()
        left = _MOST_CHARS
        for best in np.argsort(-(near[0] + near[1]), kind="stable").tolist():
            around = range(max(0, best - _AROUND), min(len(sentences), best + _AROUND + 1))
            added = set(around) - chosen
            left -= sum(len(sentences[index].text) for index in added)
            if left < 0 and chosen:
                break
            chosen |= added
        return "\n".join(_line(sentences[index]) for index in sorted(chosen))


def _line(sentence: Sentence) -> str:
    return f"{sentence.speaker}: {sentence.text}" if sentence.speaker else sentence.text


def _wants_more(question: str, document: Document) -> bool:
    """Whether a question about a conversation asks for what was said, and not for a few words."""
    return document.is_dialogue and not _SHORT.search(question)


def _action_lines(document: Document) -> str:
    """The action items as a list, or that there are none."""
    lines = [
        "- " + (f"{item.owner}{_MARK[document.lang]}" if item.owner else "") + item.task
        for item in actions(document)
    ]
    return "\n".join(lines) or _NO_ACTIONS[document.lang]
