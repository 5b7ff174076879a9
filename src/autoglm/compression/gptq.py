"""GPTQ (arXiv 2210.17323): codes column by column, each column's error moved into later ones.

The grid is fixed before; columns are visited from the most to the least active. The inverse of the
Hessian enters by its Cholesky factor, and updates of later columns are put off and made as matrix
products of halves of ever smaller ranges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.codes import Codes, Floats, Grid

Doubles = NDArray[np.float64]

DAMPING = 0.01
_DIRECT = 16  # columns of a range that is updated column by column
_INVERT_DIRECT = 64


def gptq(weights: Floats, grid: Grid, hessian: Floats, *, damping: float = DAMPING) -> Codes:
    """The codes [rows, cols] for weights that meet inputs x with `hessian` = sum of x^T x.

    `damping`, as a part of the mean of its diagonal, keeps the Hessian far from singular.
    """
    cols = weights.shape[1]
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = inverse_factor(_damped(hessian[np.ix_(order, order)], damping)).astype(np.float32)
    steps = np.broadcast_to(grid.steps(cols), weights.shape)[:, order].T
    rounding = _Rounding(
        np.ascontiguousarray(weights[:, order].T, dtype=np.float32),
        np.ascontiguousarray(steps),
        factor,
        grid,
    )
    rounding.run(0, cols)
    codes = np.empty(weights.shape, np.int8)
    codes[:, order] = rounding.codes.T
    return codes


def inverse_factor(matrix: Doubles) -> Doubles:
    """Upper triangular U with U^T U = inverse(matrix), of a positive definite matrix."""
    lower = np.linalg.cholesky(matrix[::-1, ::-1]).astype(np.float64, copy=False)
    return np.ascontiguousarray(_inverse_of_lower(lower)[::-1, ::-1])


class _Rounding:
    """Weights, steps and codes with columns as rows, so that a column lies together."""

    def __init__(self, weights: Floats, steps: Floats, factor: Floats, grid: Grid) -> None:
        self._weights = weights
        self._steps = steps
        self._factor = factor
        self._grid = grid
        self._errors = np.empty_like(weights)
        self.codes = np.empty(weights.shape, np.int8)

    def run(self, start: int, end: int) -> None:
        """Round columns [start, end), moving their errors only within this range."""
        if end - start <= _DIRECT:
            for column in range(start, end):
                self._round(column, end)
            return
        middle = (start + end) // 2
        self.run(start, middle)
        moved = self._factor[start:middle, middle:end].T @ self._errors[start:middle]
        self._weights[middle:end] -= moved
        self.run(middle, end)

    def _round(self, column: int, end: int) -> None:
        weights, step = self._weights[column], self._steps[column]
        inverse = np.divide(1.0, step, out=np.zeros_like(step), where=step > 0)
        codes = np.clip(np.rint(weights * inverse), self._grid.low, self._grid.high)
        self.codes[column] = codes
        row = self._factor[column]
        self._errors[column] = (weights - codes * step) / row[column]
        self._weights[column + 1 : end] -= np.outer(row[column + 1 : end], self._errors[column])


def _damped(hessian: Floats, damping: float) -> Doubles:
    result = hessian.astype(np.float64)
    diagonal = np.diag(result).copy()
    mean = float(diagonal.mean())
    # An input that is always zero has no say; a one keeps the matrix invertible.
    diagonal[diagonal == 0.0] = mean or 1.0
    np.fill_diagonal(result, diagonal + damping * mean)
    return result


def _inverse_of_lower(lower: Doubles) -> Doubles:
    size = len(lower)
    if size <= _INVERT_DIRECT:
        return np.tril(np.linalg.inv(lower))
    half = size // 2
    result = np.zeros_like(lower)
    first = _inverse_of_lower(lower[:half, :half])
    second = _inverse_of_lower(lower[half:, half:])
    result[:half, :half] = first
    result[half:, half:] = second
    result[half:, :half] = -second @ (lower[half:, :half] @ first)
    return result
