"""Texts that training has not seen, as windows of token ids: plain text, or answers to prompts.

Of plain text every token counts but the first of a window. Of the rows that `autoglm.lite.pack
--held-out --answer-loss` writes only the tokens of answers count.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from autoglm import _core


@dataclass(frozen=True, slots=True)
class Text:
    """Windows of token ids; `counted` says which of their tokens count, None that all do."""

    name: str
    windows: tuple[tuple[int, ...], ...]
    counted: tuple[NDArray[np.bool_], ...] | None = None

    @property
    def num_counted(self) -> int:
        """Over how many tokens a mean is taken; nothing predicts the first of a window."""
        if self.counted is None:
            return sum(len(window) - 1 for window in self.windows)
        return sum(int(mask[1:].sum()) for mask in self.counted)


def read_text(path: Path, tokenizer: Tokenizer, *, window: int, num_windows: int) -> Text:
    """The first windows of a text, without special tokens."""
    ids = tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False).ids
    starts = range(0, len(ids) - window + 1, window)
    windows = tuple(tuple(ids[start : start + window]) for start in starts)
    if not windows:
        message = f"{path}: has {len(ids)} tokens; a window needs {window}"
        raise ValueError(message)
    return Text(path.stem, windows[:num_windows])


def read_answers(path: Path, *, num_rows: int) -> Text:
    """The first packed rows of a directory that have a token that counts."""
    length = json.loads((path / "card.json").read_text(encoding="utf-8"))["row_tokens"]
    ids = np.fromfile(path / "tokens_000.bin", np.uint16).reshape(-1, length)
    masks = np.fromfile(path / "mask_000.bin", np.uint8).reshape(-1, length) > 0
    rows = [row for row in range(len(ids)) if masks[row, 1:].any()][:num_rows]
    if not rows:
        message = f"{path}: has no row with an answer"
        raise ValueError(message)
    windows = tuple(tuple(int(token) for token in ids[row]) for row in rows)
    return Text(path.name, windows, tuple(masks[row] for row in rows))


def perplexity(model: _core.Model, text: Text, plan: _core.Plan) -> float:
    """exp of the mean loss over every token that counts."""
    plan.max_context = len(text.windows[0])
    session = _core.Session(_core.Executor(model, plan))
    if text.counted is None:
        nats = sum(session.score(window) for window in text.windows)
    else:
        pairs = zip(text.windows, text.counted, strict=True)
        nats = sum(_counted_nats(session, window, mask) for window, mask in pairs)
    return math.exp(nats / text.num_counted)


def _counted_nats(session: _core.Session, ids: tuple[int, ...], mask: NDArray[np.bool_]) -> float:
    """Of the marked tokens, each predicted from all before it."""
    targets = np.flatnonzero(mask[1:]) + 1
    logits = np.asarray(session.logits(ids), np.float32)[targets - 1].astype(np.float64)
    highest = logits.max(1)
    totals = highest + np.log(np.exp(logits - highest[:, None]).sum(1))
    chosen = logits[np.arange(len(targets)), np.array(ids)[targets]]
    return float((totals - chosen).sum())
