"""Answers what `requests` recognises, from the text that it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from autoglm.lite.reader.intents import IntentClassifier
from autoglm.lite.reader.summary import Summarizer
from autoglm.lite.reader.text import read_document
from autoglm.lite.reader.weights import READER_NAME, TermTable, read_tensors, tensor

if TYPE_CHECKING:
    from pathlib import Path

    from autoglm.lite.reader.requests import Asked
    from autoglm.lite.reader.text import Document
    from autoglm.lite.reader.weights import Tensors


class Reader:
    """The trained parts, loaded once. Safe to use from several threads."""

    def __init__(self, tensors: Tensors) -> None:
        """Raises ModelFileError."""
        step = tensor(tensors, "rarity.step", "F32", 1)
        rarity = TermTable(tensor(tensors, "rarity", "U8", 1), float(step[0]))
        self._summarizer = Summarizer(tensors, rarity)
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
        return self._answer(asked, document) or None

    def _answer(self, asked: Asked, document: Document) -> str:
        if asked.kind == "speakers":
            names = dict.fromkeys(s.speaker for s in document.sentences if s.speaker)
            return ("、" if document.lang == "zh" else ", ").join(names)
        if asked.kind == "summary":
            return self._summarizer.summarize(document, asked.query)
        return ""
