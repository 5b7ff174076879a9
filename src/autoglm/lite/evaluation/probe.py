"""Intents from the model's own hidden states: a linear classifier over the mean state.

What the states know, without what generation adds or loses. Trained on CLINC150's training split,
measured on its validation split; a fixed number of full-batch Adam steps, so no seed matters.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoglm.lite.evaluation.items import read_set

FILE = "int_clinc150/data_full.jsonl"
_STEPS = 300
_RATE = 0.05
_DECAY = 1e-4
_BETAS = (0.9, 0.98)

Floats = npt.NDArray[np.float32]
Embed = Callable[[str], list[float]]


def probe(
    data_dir: Path, embed: Embed, limit: int | None, on_item: Callable[[int], None]
) -> dict[str, Any]:
    """Accuracy in percent; a limit takes so many training utterances of each intent."""
    splits: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}}
    for record in read_set(data_dir, FILE):
        if record["split"] in splits:
            splits[record["split"]].setdefault(record["intent"], []).append(record["text"])
    names = sorted(splits["train"])
    done = 0
    states: dict[str, Floats] = {}
    labels: dict[str, npt.NDArray[np.int64]] = {}
    for split, by_intent in splits.items():
        rows = [(t, names.index(n)) for n in names for t in by_intent.get(n, [])[:limit]]
        found = []
        for text, _ in rows:
            found.append(embed(text))
            done += 1
            on_item(done)
        states[split] = np.array(found, dtype=np.float32).reshape(len(rows), -1)
        labels[split] = np.array([label for _, label in rows], dtype=np.int64)
    guesses = classify(states["train"], labels["train"], states["val"])
    right = float((guesses == labels["val"]).mean()) if len(guesses) else 0.0
    return {"num": len(guesses), "model": {"accuracy": round(100.0 * right, 2)}}


def classify(
    known: Floats, labels: npt.NDArray[np.int64], unknown: Floats
) -> npt.NDArray[np.int64]:
    """Labels of `unknown` by softmax regression on standardised states."""
    mean, spread = known.mean(0), known.std(0) + 1e-6
    x, others = (known - mean) / spread, (unknown - mean) / spread
    wanted = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    weights = np.zeros((x.shape[1] + 1, wanted.shape[1]), dtype=np.float32)
    x = np.hstack([x, np.ones((len(x), 1), dtype=np.float32)])
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, _STEPS + 1):
        logits = x @ weights
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        grad = x.T @ (shares - wanted) / len(x) + _DECAY * weights
        first = _BETAS[0] * first + (1 - _BETAS[0]) * grad
        second = _BETAS[1] * second + (1 - _BETAS[1]) * grad * grad
        scale = _RATE * (1 - _BETAS[1] ** step) ** 0.5 / (1 - _BETAS[0] ** step)
        weights -= scale * first / (np.sqrt(second) + 1e-8)
    guesses: npt.NDArray[np.int64] = (others @ weights[:-1] + weights[-1]).argmax(1)
    return guesses
