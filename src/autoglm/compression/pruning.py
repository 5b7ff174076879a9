"""Which weights to set to zero: masks with an exact number of zeros, by score and pattern.

Scores: magnitude; Wanda (arXiv 2306.11695), magnitude times the norm of the input. SparseGPT
(arXiv 2301.00774) has its own in gptq.py, where the weights left make up for those removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.codes import Floats
from autoglm.errors import UsageError
from autoglm.modelfile.layout import TILE_COLS, TILE_ROWS

PruningMethod = Literal["magnitude", "wanda", "sparsegpt"]
Pattern = Literal["unstructured", "2:4", "block"]
Mask = NDArray[np.bool_]

_OF = 4
_KEPT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How many weights of each layer's matrices become zero, and which.

    "unstructured" removes the same number from every row, "2:4" two of four neighbours in a row,
    "block" whole tiles of 32 rows and 64 columns, the same number from every 32 rows.
    """

    method: PruningMethod
    pattern: Pattern
    sparsity: float


def kept_weights(scores: Floats, pruning: Pruning, *, first_column: int = 0) -> Mask:
    """Where weights stay: those of the highest scores, in exact numbers.

    `scores` may be the columns from `first_column` of a wider matrix, done piece by piece: the
    numbers add up to those of the whole. Tiles are chosen for all columns at once.
    """
    if pruning.pattern == "2:4":
        return _kept_of_four(scores)
    if pruning.pattern == "block":
        return _kept_tiles(scores, pruning.sparsity)
    return _kept_in_rows(scores, _share(pruning.sparsity, first_column, scores.shape[1]))


def check_pruning(pruning: Pruning, name: str, cols: int) -> None:
    """Raise UsageError when nothing would be left of the rows of a matrix."""
    if pruning.pattern == "2:4":
        return
    items = -(-cols // TILE_COLS) if pruning.pattern == "block" else cols
    if _share(pruning.sparsity, 0, items) == items:
        message = (
            f"sparsity {pruning.sparsity:g} leaves nothing of the {cols} columns of {name}, and so "
            "a dead layer; lower it"
        )
        raise UsageError(message)


def _share(sparsity: float, start: int, count: int) -> int:
    """How many of `count` items from number `start` go, so that pieces add up."""
    return round(sparsity * (start + count)) - round(sparsity * start)


def _kept_in_rows(scores: Floats, num_removed: int) -> Mask:
    mask = np.ones(scores.shape, np.bool_)
    if num_removed:
        removed = np.argpartition(scores, num_removed - 1, axis=1)[:, :num_removed]
        np.put_along_axis(mask, removed, False, axis=1)
    return mask


def _kept_of_four(scores: Floats) -> Mask:
    rows, cols = scores.shape
    padded = np.pad(scores, ((0, 0), (0, -cols % _OF)), constant_values=-1.0)
    groups = padded.reshape(rows, -1, _OF)
    order = np.argsort(-groups, axis=2, kind="stable")
    mask = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(mask, order[..., :_KEPT], True, axis=2)
    return mask.reshape(rows, -1)[:, :cols]


def _kept_tiles(scores: Floats, sparsity: float) -> Mask:
    rows, cols = scores.shape
    padded = np.pad(scores, ((0, -rows % TILE_ROWS), (0, -cols % TILE_COLS)))
    tiles = padded.reshape(-1, TILE_ROWS, padded.shape[1] // TILE_COLS, TILE_COLS).sum(axis=(1, 3))
    kept = _kept_in_rows(tiles.astype(np.float32), _share(sparsity, 0, tiles.shape[1]))
    return kept.repeat(TILE_ROWS, axis=0).repeat(TILE_COLS, axis=1)[:rows, :cols]
