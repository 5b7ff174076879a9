"""Labels sentences of meetings by how much of them the reference summary says, and fits the scorer.

QMSum's and CRD3's training splits; the length of a summary is fitted to the length of its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from autoglm.lite.reader.relevance import Relevance
from autoglm.lite.reader.text import read_document, stem, words
from autoglm.lite.reader.weights import TermTable
from autoglm.lite.reader_training.network import fit
from autoglm.lite.reader_training.tables import Arrays
from autoglm.lite.sources import clean_line, read_records
from autoglm.lite.transcripts import Turn, render

_MOST_OF_CRD3, _MIN_ALIGNMENT = 700, 1.0
_SHARE_OF_LOW, _HIGH = 0.35, 0.9
_HIDDEN, _EPOCHS = (64, 32), 4
# Chinese has summaries of whole meetings, without their transcripts: about this long.
_MEETING_CHARS_ZH = 14_000

Example = tuple[str, str, str]  # text, query, reference


def _examples(data_dir: Path) -> Iterator[list[Example]]:
    """The examples of one text."""
    for record in read_records(data_dir, "qmsum"):
        turns = [
            Turn(t["speaker"], clean_line(t["content"])) for t in record["meeting_transcripts"]
        ]
        text = render([turn for turn in turns if turn.text], "en")
        queries = record["general_query_list"] + record["specific_query_list"]
        yield [(text, item["query"], item["answer"]) for item in queries]
    num = 0
    for record in read_records(data_dir, "crd3"):
        if record["score"] >= _MIN_ALIGNMENT and num < _MOST_OF_CRD3:
            num += 1
            turns = [Turn(str(t["speaker"]).title(), t["text"]) for t in record["turns"]]
            yield [(render(turns, "en"), "Summarize this conversation", record["summary"])]


def _labels(relevance: Relevance, reference: str, rarity: TermTable) -> list[float]:
    """Of every sentence, the share that the reference has: rare words and pairs count more."""
    said = [stem(word) for word in words(reference)]
    pairs = set(pairwise(said))
    labels: list[float] = []
    for sentence in relevance.document.sentences:
        found = [stem(word) for word in words(sentence.text)]
        common = [word for word in dict.fromkeys(found) if word in set(said)]
        score = float(rarity.values(common).sum()) / 4 if common else 0.0
        score += 2 * sum(pair in pairs for pair in dict.fromkeys(pairwise(found)))
        labels.append(score / (len(found) + 5))
    return labels


def train(data_dir: Path, rarity: TermTable, seed: int) -> Arrays:
    """The network `sentence` and the lengths of summaries."""
    features: list[np.ndarray[tuple[int, int], np.dtype[np.float32]]] = []
    labels: list[float] = []
    lengths: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for examples in _examples(data_dir):
        relevance = Relevance(read_document(examples[0][0], "en"), rarity)
        for _, query, reference in examples:
            features.append(relevance.features(query))
            labels += _labels(relevance, reference, rarity)
            size = float(np.log(relevance.sizes.sum()))
            is_query = bool(relevance.query_terms(query))
            lengths[is_query].append((size, float(np.log(len(words(reference)) + 1))))
    x, y = np.concatenate(features), np.array(labels, dtype=np.float32)
    high = y > np.quantile(y, _HIGH)
    kept = high | (np.random.default_rng(seed).random(len(y)) < _SHARE_OF_LOW)
    weights = torch.tensor(np.where(high, 1.0, 1 / _SHARE_OF_LOW)[kept], dtype=torch.float32)
    wanted = torch.tensor(y[kept])

    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return (weights[rows] * (outputs[:, 0] - wanted[rows]) ** 2).mean()

    found = fit("sentence", x[kept], loss, hidden=_HIDDEN, epochs=_EPOCHS, seed=seed)
    return found | {"length": _lengths(lengths, data_dir)}


def _lengths(
    found: dict[bool, list[tuple[float, float]]], data_dir: Path
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Slope and start of log(words) by log(size): English whole and queried, the same in Chinese.

    Chinese lengths have the slope of English ones and the mean of VCSum's whole summaries.
    """
    rows = [_line(np.array(found[is_query])) for is_query in (False, True)]
    written = [np.log(len(r["summary"])) for r in read_records(data_dir, "vcsum")]
    for slope, _ in rows[:2]:
        rows.append(np.array([slope, np.mean(written) - slope * np.log(_MEETING_CHARS_ZH)]))
    return np.array(rows, dtype=np.float32)


def _line(
    pairs: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Slope and start of the line nearest to the pairs; flat when they do not tell."""
    middle = pairs.mean(0)
    apart = pairs - middle
    slope = (apart[:, 0] * apart[:, 1]).sum() / ((apart[:, 0] ** 2).sum() + 1e-6)
    return np.array([slope, middle[1] - slope * middle[0]])
