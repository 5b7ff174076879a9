"""What needs no model: the first three sentences, TextRank, and the best sentences there are.

TextRank after Mihalcea and Tarau (2004); the oracle picks sentences greedily by ROUGE against the
reference, which no system may see.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from autoglm.lite.evaluation.scores import units
from autoglm.lite.salience import sentences, terms
from autoglm.lite.sources import Lang
from autoglm.lite.transcripts import parse_turns

Gram = TypeVar("Gram")

_DAMPING = 0.85
_ROUNDS = 30
_LEAD = 3
_MOST_PICKED = 12
_CANDIDATES = 80  # a sentence that matches little alone adds little
_MIN_UNITS = 4
_MOST_SENTENCES = 3000


@dataclass(frozen=True, slots=True)
class Extract:
    """Sentences of a text, speakers' names left out, with their ROUGE units."""

    sentences: list[str]
    units: list[list[str]]
    lang: Lang


def extract(text: str, lang: Lang) -> Extract:
    """Split a transcript or a plain text; very short utterances are no candidates."""
    turns = parse_turns(text, lang)
    lines = [turn.text for turn in turns] if turns else text.split("\n")
    found = [sentence for line in lines for sentence in sentences(line, lang)]
    found = [s for s in found if len(units(s, lang)) >= _MIN_UNITS][:_MOST_SENTENCES]
    return Extract(found, [units(s, lang) for s in found], lang)


def lead(source: Extract) -> str:
    """The first three sentences."""
    return "\n".join(source.sentences[:_LEAD])


def textrank(source: Extract, budget_units: int) -> str:
    """The most central sentences, in order, up to about `budget_units`."""
    if not source.sentences:
        return ""
    ranks = _ranks(source)
    chosen: list[int] = []
    size = 0
    for index in np.argsort(-ranks, kind="stable"):
        if chosen and size + len(source.units[index]) > budget_units:
            break
        chosen.append(int(index))
        size += len(source.units[index])
    return "\n".join(source.sentences[index] for index in sorted(chosen))


def _ranks(source: Extract) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    found = [set(terms(sentence, source.lang)) for sentence in source.sentences]
    places = {term: index for index, term in enumerate(sorted(set().union(*found)))}
    have = np.zeros((len(found), max(1, len(places))), dtype=np.float32)
    for row, items in enumerate(found):
        have[row, [places[item] for item in items]] = 1.0
    logs = np.log(np.maximum(have.sum(1), 1.0)) + 1e-3
    weights = (have @ have.T) / (logs[:, None] + logs[None, :])
    np.fill_diagonal(weights, 0.0)
    sums = weights.sum(1, keepdims=True)
    shares = weights / np.maximum(sums, 1e-9)
    ranks = np.ones(len(found), dtype=np.float32)
    for _ in range(_ROUNDS):
        ranks = (1 - _DAMPING) + _DAMPING * (shares.T @ ranks)
    return ranks


def oracle(source: Extract, reference: str) -> str:
    """Sentences added while the mean of ROUGE-1 and ROUGE-2 against the reference grows."""
    wanted = _Grams(units(reference, source.lang))
    have = {index: _Grams(found) for index, found in enumerate(source.units)}
    close = sorted(have, key=lambda index: -wanted.match(have[index]))[:_CANDIDATES]
    chosen: list[int] = []
    together, best = _Grams([]), 0.0
    while len(chosen) < _MOST_PICKED:
        scored = [(wanted.match(together.plus(have[i])), -i) for i in close if i not in chosen]
        score, index = max(scored, default=(0.0, 0))
        if score <= best:
            break
        chosen.append(-index)
        together, best = together.plus(have[-index]), score
    return "\n".join(source.sentences[index] for index in sorted(chosen))


class _Grams:
    """Counts of words and of pairs of words."""

    def __init__(self, found: list[str]) -> None:
        self.words = Counter(found)
        self.pairs = Counter(pairwise(found))

    def plus(self, other: "_Grams") -> "_Grams":
        result = _Grams([])
        result.words = self.words + other.words
        result.pairs = self.pairs + other.pairs
        return result

    def match(self, other: "_Grams") -> float:
        """Mean F1 over words and pairs."""
        return (_f1(self.words, other.words) + _f1(self.pairs, other.pairs)) / 2


def _f1(ours: Counter[Gram], theirs: Counter[Gram]) -> float:
    common = sum(min(count, theirs[gram]) for gram, count in ours.items())
    total = ours.total() + theirs.total()
    return 2 * common / total if total else 0.0
