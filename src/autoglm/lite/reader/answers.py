"""Points at the words of a text that answer a question, or says that there are none.

Networks of dilated convolutions over the clues of every token score each as the first and the last
of the answer. The best pair by their mean counts if it beats the score of there being none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autoglm.errors import ModelFileError
from autoglm.lite.reader.clues import clues, question_places, token_places, tokenize
from autoglm.lite.reader.spans import SpanRules
from autoglm.lite.reader.weights import READER_NAME, tensor

if TYPE_CHECKING:
    from autoglm.lite.reader.clues import Tokens
    from autoglm.lite.reader.weights import Array, Floats, Tensors, TermTable
    from autoglm.lite.sources import Lang

_LONGEST = {"zh": 60, "en": 25}
_AROUND = 240  # tokens around an answer that are asked whether there is one
_LIMIT = 5.0
_EDGES = " ,.;:!?，。；：！？、"


class _Pointer:
    """The network of one language."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self._mean = tensor(tensors, f"{name}.mean", "F32", 1)
        self._spread = tensor(tensors, f"{name}.spread", "F32", 1)
        self._token = _table(tensors, f"{name}.token")
        self._asked = _table(tensors, f"{name}.asked")
        width = len(self._mean) + self._token.shape[1] + self._asked.shape[1]
        self._into = _linear(tensors, f"{name}.into", width)
        state = len(self._into[1])
        self._ends = _linear(tensors, f"{name}.ends", state)
        self._none = _linear(tensors, f"{name}.none", state)
        self._layers: list[tuple[Array, Array, int]] = []
        for number, step in enumerate(tensor(tensors, f"{name}.steps", "F32", 1).tolist()):
            weight = tensor(tensors, f"{name}.{number}.weight", "F32", 3)
            bias = tensor(tensors, f"{name}.{number}.bias", "F32", 1)
            if weight.shape != (state, state, 3) or len(bias) != state or not 1 <= step <= 64:
                message = f"{READER_NAME}: layer {number} of '{name}' does not fit"
                raise ModelFileError(message)
            self._layers.append((weight.transpose(2, 1, 0), bias, int(step)))

    def states(self, tokens: Tokens, question: str, rarity: TermTable) -> Floats:
        """float32 [num_tokens, width]."""
        found = clues(tokens, question, rarity)
        if found.shape[1] != len(self._mean):
            message = (
                f"{READER_NAME}: was trained for {len(self._mean)} clues, not {found.shape[1]}"
            )
            raise ModelFileError(message)
        plain = np.clip((found - self._mean) / self._spread, -_LIMIT, _LIMIT)
        embedded = self._token[token_places(tokens, len(self._token))]
        about = self._asked[question_places(question, len(self._asked))].mean(0)
        about = np.broadcast_to(about, (len(tokens), len(about)))
        weight, bias = self._into
        inputs = np.concatenate([plain, embedded, about], axis=1)
        state = np.maximum(inputs @ weight.T + bias, 0.0)
        for taps, shift, step in self._layers:
            padded = np.pad(state, ((step, step), (0, 0)))
            sums = shift + sum(
                padded[tap * step : tap * step + len(state)] @ taps[tap] for tap in range(3)
            )
            state = state + np.maximum(sums, 0.0)
        return np.asarray(state, dtype=np.float32)

    def ends(self, states: Floats) -> Floats:
        """float32 [num_tokens, 2]: as the first, as the last."""
        weight, bias = self._ends
        return np.asarray(states @ weight.T + bias, dtype=np.float32)

    def none(self, states: Floats) -> float:
        """That these tokens hold no answer."""
        weight, bias = self._none
        return float((weight @ states.max(0) + bias).sum())


class AnswerFinder:
    """Answers questions about texts."""

    def __init__(self, tensors: Tensors, rarity: TermTable) -> None:
        """Raises ModelFileError."""
        self._rarity = rarity
        self._pointers = {lang: _pointers(tensors, f"answer.{lang}") for lang in _LONGEST}

    def find(self, text: str, question: str, lang: Lang) -> str | None:
        """The words that answer, as they stand in the text; None when it has no answer."""
        tokens = tokenize(text)
        if not len(tokens):
            return None
        pointers = self._pointers[lang]
        states = [pointer.states(tokens, question, self._rarity) for pointer in pointers]
        scores = [pointer.ends(state) for pointer, state in zip(pointers, states, strict=True)]
        together = _mean(scores)
        first, last = _best_span(together, tokens, _LONGEST[lang])
        near = slice(max(0, first - _AROUND // 2), last + 1 + _AROUND // 2)
        margin = sum(
            float(score[first, 0] + score[last, 1]) - pointer.none(state[near])
            for pointer, state, score in zip(pointers, states, scores, strict=True)
        )
        if margin <= 0:
            return None
        if lang == "en":
            rules = SpanRules(tokens, question)
            first, last = _best_span(together, tokens, _LONGEST[lang], rules)
        return text[tokens.starts[first] : tokens.ends[last]].strip(_EDGES) or None


def _pointers(tensors: Tensors, name: str) -> list[_Pointer]:
    """The networks of one language, at least one."""
    num = 1
    while f"{name}.{num}.mean" in tensors:
        num += 1
    return [_Pointer(tensors, f"{name}.{number}") for number in range(num)]


def _mean(scores: list[Floats]) -> Floats:
    """The mean of log-probabilities over the tokens, float32 [num_tokens, 2]."""
    total = np.zeros_like(scores[0])
    for score in scores:
        plain = score - score.max(0)
        total += plain - np.log(np.exp(plain).sum(0))
    return total / np.float32(len(scores))


def _best_span(
    scores: Floats, tokens: Tokens, longest: int, rules: SpanRules | None = None
) -> tuple[int, int]:
    """The first and last token of the best span within one sentence."""
    best, most = (0, 0), -np.inf
    if rules:
        scores = scores - np.stack([rules.first, rules.last], axis=1)
    for extra in range(min(longest, len(tokens))):
        num = len(tokens) - extra
        together = scores[:num, 0] + scores[extra:, 1]
        is_one = tokens.sentence[:num] == tokens.sentence[extra:]
        if rules:
            together = together - rules.inner(extra)
        together = np.where(is_one, together, -np.inf)
        at = int(np.argmax(together))
        if together[at] > most:
            best, most = (at, at + extra), float(together[at])
    return best


def _table(tensors: Tensors, name: str) -> Floats:
    codes = tensor(tensors, name, "I8", 2)
    steps = tensor(tensors, f"{name}.step", "F32", 1)
    if len(steps) != codes.shape[1]:
        message = f"{READER_NAME}: '{name}' has {codes.shape[1]} columns and {len(steps)} steps"
        raise ModelFileError(message)
    return np.asarray(codes.astype(np.float32) * steps, dtype=np.float32)


def _linear(tensors: Tensors, name: str, width: int) -> tuple[Array, Array]:
    weight = tensor(tensors, f"{name}.weight", "F32", 2)
    bias = tensor(tensors, f"{name}.bias", "F32", 1)
    if weight.shape != (len(bias), width):
        message = f"{READER_NAME}: '{name}' is {weight.shape}; expected {(len(bias), width)}"
        raise ModelFileError(message)
    return weight, bias
