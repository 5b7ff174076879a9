"""What is known of every sentence of a text, alone and with regard to a query, as numbers.

Nothing here depends on single words beyond their rarity, so what a network learns about the
numbers in one language or kind of text holds for others too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from autoglm.lite.reader.text import read_words, terms, words

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from autoglm.lite.reader.text import Document
    from autoglm.lite.reader.weights import Floats, TermTable

_CUE = re.compile(
    r"\b(?:decid\w+|agree\w*|suggest\w*|propos\w+|should|plan\w*|goal|budget|problem|issue|important"
    r"|because|reason|think|want\w*|need\w*|first|second|finally|main|so that|would|could)\b"
    r"|决定|确认|建议|希望|需要|应该|计划|目标|问题|重点|因为|认为|觉得|首先|第一|第二|最后|主要|通过|发展"
    r"|能够|可以"
)
_PRONOUN = re.compile(
    r"\b(?:i|you|we|it|that|this|he|she|they)\b|我|你|它|他|这个|那个|就是|然后|对吧"
)
_DIGIT = re.compile(r"\d")
# Words of instructions, which say what to do and not about what.
_INSTRUCTION = frozenset(
    term for word in read_words("instruction_words.txt") for term in terms(word)
)
_WINDOWS = (3, 8, 20)
_FEEDBACK = 25  # sentences around matches whose words count as the query's
_CHARS_PER_WORD = 1.7  # Chinese characters that say as much as an English word


class Relevance:
    """A document's terms as a sparse matrix, and features of its sentences."""

    def __init__(self, document: Document, rarity: TermTable) -> None:
        self.document = document
        self.sentence_terms = [terms(sentence.text) for sentence in document.sentences]
        places: dict[str, int] = {}
        pairs = [
            (row, places.setdefault(term, len(places)))
            for row, found in enumerate(self.sentence_terms)
            for term in dict.fromkeys(found)
        ]
        flat = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self.rows, self.columns = flat[:, 0], flat[:, 1]
        self.terms = places
        self._table = rarity
        self.rarity = rarity.values(places)
        self.frequency = np.bincount(self.columns, minlength=len(places)).astype(np.float32)
        count = len if document.lang == "zh" else lambda text: len(words(text))
        sizes = [max(1, count(sentence.text)) for sentence in document.sentences]
        self.sizes = np.array(sizes, dtype=np.float32)
        self.num = len(sizes)
        self._weights = self.rarity[self.columns]
        self._norm = np.sqrt(self.sums(self.rarity**2)) + 1e-3

    def sums(self, values: Floats) -> Floats:
        """Of every sentence, the sum of a value of each of its terms."""
        return np.bincount(self.rows, values[self.columns], self.num).astype(np.float32)

    def features(self, query: str) -> Floats:
        """float32 [num_sentences, num_features]."""
        return np.concatenate([self._own(), self._of_query(query)], axis=1)

    def query_terms(self, query: str) -> list[str]:
        """What a query is about: its terms without those of instructions."""
        return [term for term in dict.fromkeys(terms(query)) if term not in _INSTRUCTION]

    def _own(self) -> Floats:
        found = self.document.sentences
        sizes = self.sizes / (_CHARS_PER_WORD if self.document.lang == "zh" else 1.0)
        num_terms = np.array([len(each) for each in self.sentence_terms], dtype=np.float32)
        number = np.arange(self.num)
        central = self._likeness(np.log1p(self.frequency) * self.rarity)
        mass = self.sums(self.rarity * np.log1p(self.frequency - 1)) / np.sqrt(12 + num_terms)
        talk: dict[str, float] = {}
        for sentence, size in zip(found, self.sizes, strict=True):
            talk[sentence.speaker] = talk.get(sentence.speaker, 0.0) + float(size)
        total = max(1.0, sum(talk.values()))
        lower = [sentence.text.lower() for sentence in found]
        columns = [
            np.log1p(num_terms),
            np.log(np.maximum(sizes, 1.0)),
            number / max(1, self.num),
            np.minimum(number, 20) / 20,
            np.minimum(self.num - 1 - number, 20) / 20,
            [sentence.place / sentence.turn_size for sentence in found],
            np.log1p([sentence.turn_size for sentence in found]),
            [sentence.place == 0 for sentence in found],
            [text.rstrip('"”').endswith(("?", "？")) for text in lower],
            self.sums(self.rarity) / (num_terms + 1),
            [bool(_DIGIT.search(text)) for text in lower],
            np.array([len(_CUE.findall(text)) for text in lower]) / sizes,
            np.array([len(_PRONOUN.findall(text)) for text in lower]) / sizes,
            num_terms / sizes,
            central,
            mass / (mass.max(initial=0.0) + 1e-6),
            smooth(central, 8),
            [talk[sentence.speaker] / total for sentence in found],
            np.full(self.num, np.log(self.num + 1)),
        ]
        return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)

    def _likeness(self, centre: Floats) -> Floats:
        """Of every sentence, its cosine with a bag of terms; the largest is 1."""
        found = self.sums(self.rarity * centre) / self._norm
        return np.asarray(found / (found.max(initial=0.0) + 1e-6), dtype=np.float32)

    def coverage(self, query: str) -> tuple[Floats, list[Floats], float]:
        """How much of a query stands in each sentence, and near it, for three distances.

        The last is the weight of the whole query.
        """
        wanted = np.zeros(len(self.terms), dtype=np.float32)
        asked = self.query_terms(query)
        total = 1e-3
        for term, known in zip(asked, self._table.values(asked), strict=True):
            value = float(known)
            if term in self.terms:
                place = self.terms[term]
                value = 0.5 * value + 0.5 * np.log((self.num + 1) / self.frequency[place])
                wanted[place] = value
            total += value
        near = [np.zeros(self.num, dtype=np.float32) for _ in _WINDOWS]
        for place in np.flatnonzero(wanted).tolist():
            distance = _distances(self.rows[self.columns == place], self.num)
            for cover, reach in zip(near, _WINDOWS, strict=True):
                cover += wanted[place] * np.maximum(0.0, 1 - distance / (reach + 1))
        return self.sums(wanted) / total, [cover / total for cover in near], float(total)

    def _of_query(self, query: str) -> Floats:
        match, near, total = self.coverage(query)
        best = near[2] + near[1]
        least = np.sort(best)[-min(self.num, _FEEDBACK) :][0] if self.num else 0.0
        chosen = (best >= least) * best
        drawn = np.bincount(self.columns, chosen[self.rows], len(self.terms))
        feedback = self._likeness((drawn / (self.frequency + 2) * self.rarity).astype(np.float32))
        lower = query.lower()
        named = self._speakers(lambda name: name in lower)
        partly = self._speakers(lambda name: any(len(p) > 2 and p in lower for p in name.split()))
        rank = np.argsort(np.argsort(best)) / max(1, self.num)
        columns = [
            match,
            *near,
            *(cover / (cover.max(initial=0.0) + 1e-3) for cover in near),
            feedback,
            smooth(feedback, 5),
            rank,
            rank**4,
            named,
            partly,
            np.full(self.num, named.max(initial=0.0)),
            named * smooth(near[1], 3),
            np.full(self.num, near[2].max(initial=0.0)),
            np.full(self.num, float(bool(self.query_terms(query)))),
            np.full(self.num, np.log1p(total)),
        ]
        return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)

    def _speakers(self, is_meant: Callable[[str], bool]) -> Floats:
        found = {
            s.speaker: bool(s.speaker) and is_meant(s.speaker.lower())
            for s in self.document.sentences
        }
        return np.array([found[s.speaker] for s in self.document.sentences], dtype=np.float32)


def _distances(places: npt.NDArray[np.int64], num: int) -> Floats:
    """From every sentence to the nearest of `places`, which are in order."""
    number = np.arange(num)
    after = np.searchsorted(places, number)
    left = np.abs(places[np.clip(after - 1, 0, len(places) - 1)] - number)
    right = np.abs(places[np.clip(after, 0, len(places) - 1)] - number)
    nearest: Floats = np.minimum(left, right).astype(np.float32)
    return nearest


def smooth(values: Floats, reach: int) -> Floats:
    """Weighted means over `reach` neighbours to both sides."""
    kernel = np.maximum(0.0, 1 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1))
    if len(values) < len(kernel):
        mean = float(values.mean()) if len(values) else 0.0
        return np.full(len(values), mean, dtype=np.float32)
    found: Floats = np.convolve(values, kernel / kernel.sum(), "same").astype(np.float32)
    return found
