"""How well bundles answer the rows of a task: ROUGE-1 of the model's own answers, with intervals.

The model answers as for a user, without the reader: this is separate networks, which compression
of the language model leaves alone. Answers are greedy and bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.exchanges import Exchange
from autoglm.config import EXACT, Settings
from autoglm.lite.evaluation.scores import rouge
from autoglm.lite.reader.text import language
from autoglm.runtime import Runtime

MAX_ANSWER_TOKENS = 128
_RESAMPLED = 1000
_PERCENT = 100.0

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """ROUGE-1 (0-100) of one task beside that of the other bundle; differences are in points."""

    task: str
    num_rows: int
    rouge1: float
    rouge1_low: float
    rouge1_high: float
    reference: float
    difference: float
    difference_low: float
    difference_high: float

    @property
    def relative_percent(self) -> float:
        """The difference in percent of the other bundle's score."""
        return _PERCENT * self.difference / self.reference if self.reference else 0.0


def rouge1_of(
    bundle: Path, tasks: Sequence[Sequence[Exchange]], on_row: Callable[[int], None]
) -> list[Doubles]:
    """ROUGE-1 of a bundle's answer to every row of every task; `on_row` gets how many are done."""
    done = 0
    found = []
    settings = Settings(model=str(bundle), precision=EXACT, reader=False, cache_mib=0)
    with closing(Runtime(settings)) as runtime:
        for task in tasks:
            scores = []
            for row in task:
                scores.append(_rouge1(row, _answer(runtime, row)))
                done += 1
                on_row(done)
            found.append(np.array(scores, np.float64))
    return found


def compared_scores(task: str, scores: Doubles, others: Doubles) -> TaskScore:
    """A task's scores beside another bundle's on the same rows; intervals resample rows."""
    drawn = np.random.default_rng(0).integers(0, len(scores), (_RESAMPLED, len(scores)))
    low, high = np.percentile(scores[drawn].mean(axis=1), [2.5, 97.5])
    gain_low, gain_high = np.percentile((scores - others)[drawn].mean(axis=1), [2.5, 97.5])
    return TaskScore(
        task=task,
        num_rows=len(scores),
        rouge1=float(scores.mean()),
        rouge1_low=float(low),
        rouge1_high=float(high),
        reference=float(others.mean()),
        difference=float((scores - others).mean()),
        difference_low=float(gain_low),
        difference_high=float(gain_high),
    )


def _answer(runtime: Runtime, row: Exchange) -> str:
    chunks = runtime.stream(row.request(MAX_ANSWER_TOKENS))
    return "".join(chunk.text for chunk in chunks).strip()


def _rouge1(row: Exchange, answer: str) -> float:
    return rouge(row.reference, answer, language(row.reference))["rouge1"]
