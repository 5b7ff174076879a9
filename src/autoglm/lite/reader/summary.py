"""Extractive summaries: sentences chosen by a trained scorer or by coverage, then reported.

English sentences are scored by a network trained on meetings with summaries. For Chinese there are
no meetings with summaries to train on: sentences are chosen so that together they cover the text's
frequent and rare terms, those that summaries use counting more (after SumBasic and MMR).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from autoglm.lite.reader.relevance import Relevance
from autoglm.lite.reader.reported import report
from autoglm.lite.reader.weights import Network, TermTable, tensor

if TYPE_CHECKING:
    from autoglm.lite.reader.text import Document
    from autoglm.lite.reader.weights import Floats, Tensors

_SHORTEST = 8  # words or characters: shorter sentences say nothing alone
_MOST_REPEATED = 0.5
_USE_OF_SUMMARIES = 0.5  # how far terms typical of summaries count more
_DECAY = 0.5  # of a term's worth once it is covered
_LENGTH_POWER, _LENGTH_START = 0.7, 10.0
_OFF_QUERY = 0.1
_MOST_OF_TEXT = 0.4


class Summarizer:
    """Answers whole-text and query-focused requests for a summary."""

    def __init__(self, tensors: Tensors, rarity: TermTable) -> None:
        """Raises ModelFileError."""
        self._rarity = rarity
        self._network = Network(tensors, "sentence")
        step = tensor(tensors, "usage.step", "F32", 1)
        self._usage = TermTable(tensor(tensors, "usage", "I8", 1), float(step[0]))
        # log(words) = slope * log(size of the text) + start, for whole texts and for queries.
        self._length = np.asarray(tensor(tensors, "length", "F32", 2), dtype=np.float64)

    def summarize(self, document: Document, query: str) -> str:
        """Lines of a summary; empty when the text has no sentence worth saying."""
        if document.is_dialogue:
            spoken = tuple(sentence for sentence in document.sentences if sentence.speaker)
            document = replace(document, sentences=spoken)
        relevance = Relevance(document, self._rarity)
        speakers = {sentence.speaker for sentence in document.sentences}
        chosen = [document.sentences[index] for index in self.select(relevance, query)]
        return report(chosen, document.lang, num_speakers=len(speakers))

    def select(self, relevance: Relevance, query: str) -> list[int]:
        """The chosen sentences, in order."""
        if not relevance.num:
            return []
        has_query = bool(relevance.query_terms(query))
        size = float(relevance.sizes.sum())
        slope, start = self._length[(2 if relevance.document.lang == "zh" else 0) + has_query]
        budget = min(float(np.exp(slope * np.log(size) + start)), _MOST_OF_TEXT * size)
        if relevance.document.lang == "zh":
            return self._by_coverage(relevance, query, budget)
        scores = self._network.scores(relevance.features(query))[:, 0]
        return _by_score(relevance, scores, budget)

    def _by_coverage(self, relevance: Relevance, query: str, budget: float) -> list[int]:
        worth = np.log(relevance.frequency) * relevance.rarity
        usage = np.clip(self._usage.values(relevance.terms), -3.0, 3.0)
        worth = (worth * np.exp(_USE_OF_SUMMARIES * usage)).astype(np.float32)
        focus = _focus(relevance, query)
        may_be = relevance.sizes >= _SHORTEST
        chosen: list[int] = []
        size = 0.0
        cost = (_LENGTH_START + relevance.sizes) ** _LENGTH_POWER
        while size < budget and may_be.any():
            gains = np.where(may_be, relevance.sums(worth) * focus / cost, -1.0)
            best = int(np.argmax(gains))
            if chosen and gains[best] <= 0:
                break
            may_be[best] = False
            chosen.append(best)
            size += float(relevance.sizes[best])
            worth[relevance.columns[relevance.rows == best]] *= _DECAY
        return sorted(chosen) or _shortest_texts(relevance)


def _focus(relevance: Relevance, query: str) -> Floats:
    """How near each sentence is to what the query names, speakers first; ones without a query."""
    speakers = {sentence.speaker for sentence in relevance.document.sentences}
    named = {speaker for speaker in speakers if speaker and speaker in query}
    about = query
    for speaker in named:
        about = about.replace(speaker, "，")
    focus = np.ones(relevance.num, dtype=np.float32)
    _, near, _ = relevance.coverage(about)
    most = near[1].max(initial=0.0)
    if most > 0:
        focus = _OFF_QUERY + (near[1] / most) ** 2
    if named:
        said = [sentence.speaker in named for sentence in relevance.document.sentences]
        focus = focus * np.array(said, dtype=np.float32)
    return np.asarray(focus, dtype=np.float32)


def _by_score(relevance: Relevance, scores: Floats, budget: float) -> list[int]:
    """The best sentences that say something new, up to the budget."""
    chosen: list[int] = []
    said: set[str] = set()
    size = 0.0
    for index in np.argsort(-scores, kind="stable"):
        found = set(relevance.sentence_terms[index])
        if relevance.sizes[index] < _SHORTEST or not found:
            continue
        if len(found & said) > _MOST_REPEATED * len(found):
            continue
        if chosen and size + relevance.sizes[index] > 1.1 * budget:
            continue
        chosen.append(int(index))
        said |= found
        size += float(relevance.sizes[index])
        if size >= budget:
            break
    return sorted(chosen) or _shortest_texts(relevance)


def _shortest_texts(relevance: Relevance) -> list[int]:
    """Of a text without a long sentence, the sentence with the most terms."""
    counts = [len(found) for found in relevance.sentence_terms]
    return [int(np.argmax(counts))] if counts else []
