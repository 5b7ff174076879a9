"""Which of the known intents an utterance has: a linear classifier over hashed n-grams.

Words, pairs of words and runs of 3 to 5 letters are embedded and averaged by rarity, as fastText
does (Joulin et al. 2017).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np

from autoglm.errors import ModelFileError
from autoglm.lite.reader.weights import READER_NAME, hashes, tensor

if TYPE_CHECKING:
    from autoglm.lite.reader.weights import Floats, Tensors

_WORD = re.compile(r"[a-z']+|\d+|[\u3400-\u9fff]")
_RUNS = (3, 4, 5)
_MAX_CHARS = 2000


def grams(utterance: str) -> list[str]:
    """The features of an utterance, each once, in order."""
    words = _WORD.findall(utterance[:_MAX_CHARS].lower())
    found = [f"w:{word}" for word in words]
    found += [f"b:{a} {b}" for a, b in zip(["^", *words], words, strict=False)]
    for word in words:
        inside = f"<{word}>"
        found += [
            f"c:{inside[start : start + run]}"
            for run in _RUNS
            for start in range(len(inside) - run + 1)
        ]
    return list(dict.fromkeys(found))


class IntentClassifier:
    """Names the intent of an utterance."""

    def __init__(self, tensors: Tensors) -> None:
        """Raises ModelFileError."""
        codes = tensor(tensors, "intent.embedding", "I8", 2)
        steps = tensor(tensors, "intent.embedding.step", "F32", 1)
        self._embedding: Floats = codes.astype(np.float32) * steps
        self._rarity = np.asarray(tensor(tensors, "intent.rarity", "F32", 1), dtype=np.float32)
        self._weight = np.asarray(tensor(tensors, "intent.weight", "F32", 2), dtype=np.float32)
        self._bias = np.asarray(tensor(tensors, "intent.bias", "F32", 1), dtype=np.float32)
        try:
            names = json.loads(tensor(tensors, "intent.names", "U8", 1).tobytes())
        except ValueError as err:
            message = f"{READER_NAME}: the names of the intents are not JSON"
            raise ModelFileError(message) from err
        width = self._embedding.shape[1]
        if (
            not isinstance(names, list)
            or self._weight.shape != (len(names), width)
            or len(self._bias) != len(names)
            or len(self._rarity) != len(self._embedding)
        ):
            message = f"{READER_NAME}: the parts of the intent classifier do not fit"
            raise ModelFileError(message)
        self.names = tuple(str(name) for name in names)

    def classify(self, utterance: str) -> str:
        """The likeliest intent."""
        places = hashes(grams(utterance), len(self._embedding))
        rarity = self._rarity[places]
        state = (rarity[:, None] * self._embedding[places]).sum(0)
        state = state / (np.sqrt(float((rarity**2).sum())) + 1e-6)
        return self.names[int(np.argmax(self._weight @ state + self._bias))]
