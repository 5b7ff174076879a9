"""GPTQ (arXiv 2210.17323) and SparseGPT (2301.00774): columns one by one, errors into later ones.

The grid is fixed before; columns are visited from the most to the least active. The inverse of the
Hessian enters by its Cholesky factor, and updates of later columns are put off and made as matrix
products of halves of ever smaller ranges.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.codes import Codes, Floats, Grid, round_to_nearest
from autoglm.compression.pruning import Pruning, kept_weights

Real = NDArray[np.float32] | NDArray[np.float64]

DAMPING = 0.01
_DIRECT = 16  # columns of a range that is updated column by column
_PIECE = 128  # columns whose zeros are chosen together
_FACTOR_DIRECT = 64


def gptq(weights: Floats, grid: Grid, hessian: Floats, *, damping: float = DAMPING) -> Codes:
    """The codes [rows, cols] for weights that meet inputs x with `hessian` = sum of x^T x.

    `damping`, as a part of the mean of its diagonal, keeps the Hessian far from singular.
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = inverse_factor(_damped(hessian[np.ix_(order, order)], damping))
    rounding = _Rounding(weights[:, order], factor, _Steps.of(grid, weights.shape, order))
    rounding.run(0, weights.shape[1])
    values = np.empty_like(weights)
    values[:, order] = rounding.values.T
    return round_to_nearest(values, grid)


def sparsegpt(
    weights: Floats,
    grid: Grid | None,
    hessian: Floats,
    pruning: Pruning,
    *,
    damping: float = DAMPING,
) -> Floats:
    """The weights that stay, as values of the grid if there is one, and zeros.

    Columns come in their own order. What to remove is decided piece by piece, by the error that
    removing a weight would cause, when the errors of the pieces before have arrived; whole tiles
    at once, as pieces hold too few of them to choose from.
    """
    order = np.arange(weights.shape[1])
    steps = None if grid is None else _Steps.of(grid, weights.shape, order)
    factor = inverse_factor(_damped(hessian, damping))
    rounding = _Rounding(weights, factor, steps, pruning)
    rounding.run(0, weights.shape[1])
    return np.ascontiguousarray(rounding.values.T)


def inverse_factor(matrix: Floats) -> Floats:
    """Upper triangular U with U^T U = inverse(matrix), of a positive definite matrix.

    In float32, as in the paper, and in float64 when that is not enough to find the root.
    """
    turned = matrix[::-1, ::-1]
    try:
        _, inverse = _root_and_inverse(np.array(turned, np.float32))
    except np.linalg.LinAlgError:
        _, inverse = _root_and_inverse(np.array(turned, np.float64))
    return np.ascontiguousarray(inverse[::-1, ::-1], np.float32)


class _Steps(NamedTuple):
    """A grid with columns as rows."""

    steps: Floats
    low: int
    high: int

    @classmethod
    def of(cls, grid: Grid, shape: tuple[int, ...], order: NDArray[np.intp]) -> Self:
        """The grid of a matrix of this shape, its columns in this order."""
        steps = np.broadcast_to(grid.steps(shape[1]), shape)[:, order].T
        return cls(np.ascontiguousarray(steps), grid.low, grid.high)

    def nearest(self, column: int, weights: Floats) -> Floats:
        """The values of the grid next to a column of weights."""
        step = self.steps[column]
        inverse = np.divide(1.0, step, out=np.zeros_like(step), where=step > 0)
        nearest: Floats = step * np.clip(np.rint(weights * inverse), self.low, self.high)
        return nearest


class _Rounding:
    """Weights and the values they get, with columns as rows, so that a column lies together."""

    def __init__(
        self,
        weights: Floats,
        factor: Floats,
        steps: _Steps | None,
        pruning: Pruning | None = None,
    ) -> None:
        self._weights = np.array(weights.T, np.float32, order="C")
        self._factor = factor
        self._steps = steps
        self._pruning = pruning
        self._kept: NDArray[np.bool_] | None = None
        is_tiled = pruning is not None and pruning.pattern == "block"
        self._chosen_together = weights.shape[1] if is_tiled else _PIECE
        self._errors = np.empty_like(self._weights)
        self.values = np.empty_like(self._weights)

    def run(self, start: int, end: int) -> None:
        """Round columns [start, end), moving their errors only within this range."""
        is_piece = end - start <= self._chosen_together and self._kept is None
        pruning = self._pruning if is_piece else None
        if pruning is not None:
            self._kept = self._choose(start, end, pruning)
        if end - start <= _DIRECT:
            for column in range(start, end):
                self._round(column, end)
        else:
            middle = start + -(-(end - start) // (2 * _DIRECT)) * _DIRECT
            self.run(start, middle)
            moved = self._factor[start:middle, middle:end].T @ self._errors[start:middle]
            self._weights[middle:end] -= moved
            self.run(middle, end)
        if pruning is not None:
            self._kept = None

    def _choose(self, start: int, end: int, pruning: Pruning) -> NDArray[np.bool_]:
        """What stays of the columns [start, end), at their places."""
        scores = np.square(self._weights[start:end].T / np.diag(self._factor)[start:end])
        kept = np.zeros((end, scores.shape[0]), np.bool_)
        kept[start:] = kept_weights(scores, pruning, first_column=start).T
        return kept

    def _round(self, column: int, end: int) -> None:
        weights = self._weights[column]
        values = weights if self._steps is None else self._steps.nearest(column, weights)
        if self._kept is not None:
            values = values * self._kept[column]
        self.values[column] = values
        row = self._factor[column]
        self._errors[column] = (weights - values) / row[column]
        self._weights[column + 1 : end] -= np.outer(row[column + 1 : end], self._errors[column])


def _damped(hessian: Floats, damping: float) -> Floats:
    result = hessian.copy()
    diagonal = np.diag(result).astype(np.float64)
    mean = float(diagonal.mean())
    # An input that is always zero has no say; a one keeps the matrix invertible.
    diagonal[diagonal == 0.0] = mean or 1.0
    np.fill_diagonal(result, diagonal + damping * mean)
    return result


def _root_and_inverse(matrix: Real) -> tuple[Real, Real]:
    """Lower triangular L with L L^T = matrix, and its inverse, by matrix products of halves."""
    size = len(matrix)
    if size <= _FACTOR_DIRECT:
        root = np.linalg.cholesky(matrix)
        return root, np.tril(np.linalg.inv(root))
    half = size // 2
    root, inverse = np.zeros_like(matrix), np.zeros_like(matrix)
    root[:half, :half], inverse[:half, :half] = _root_and_inverse(matrix[:half, :half])
    below = matrix[half:, :half] @ inverse[:half, :half].T
    root[half:, :half] = below
    rest = matrix[half:, half:] - below @ below.T
    root[half:, half:], inverse[half:, half:] = _root_and_inverse(rest)
    inverse[half:, :half] = -inverse[half:, half:] @ (below @ inverse[:half, :half])
    return root, inverse
