"""Steps of int4 and int3 by what rounding and cutting off cost at a matrix's outputs.

The second half of AWQ (arXiv 2306.00978). Rounding to nearest fits each group of 64 columns to its
weights; here a group is fitted to its part of the outputs, on the inputs that it meets.
"""

from __future__ import annotations

import numpy as np

from autoglm.compression.codes import Floats, Grid
from autoglm.compression.forward import chunks
from autoglm.modelfile.layout import GROUP_SIZE

# Of the step that puts a group's largest weight on the last code: less cuts off.
SHARES = tuple(np.float32(share / 32) for share in range(10, 34))
# Of the largest step of a row: which integers the others then are.
LARGEST_SCALES = tuple(np.float32(scale / 2) for scale in range(32, 17, -1))
_MOST = 16
_ROWS = 256  # whose groups are fitted together


def group_moments(inputs: Floats) -> Floats:
    """The sum of x^T x over the inputs x of each group of columns, [groups, 64, 64]."""
    num_groups = -(-inputs.shape[1] // GROUP_SIZE)
    padding = num_groups * GROUP_SIZE - inputs.shape[1]
    total = np.zeros((num_groups, GROUP_SIZE, GROUP_SIZE), np.float32)
    for chunk in chunks(inputs):
        padded = np.pad(chunk, ((0, 0), (0, padding)))
        groups = padded.reshape(len(chunk), num_groups, GROUP_SIZE)
        total += groups.transpose(1, 2, 0) @ groups.transpose(1, 0, 2)
    return total


def clipped_grid(weights: Floats, moments: Floats, num_codes: int) -> Grid:
    """The grid of two levels whose groups err least at the outputs, given their `moments`.

    Codes are the `num_codes` integers from -num_codes / 2 on.
    """
    rows, cols = weights.shape
    num_groups = len(moments)
    padded = np.pad(weights, ((0, 0), (0, num_groups * GROUP_SIZE - cols)))
    groups = padded.reshape(rows, num_groups, GROUP_SIZE).transpose(1, 0, 2)
    scale = np.empty(rows, np.float32)
    group_scale = np.empty((rows, num_groups), np.uint8)
    half = num_codes // 2
    for start in range(0, rows, _ROWS):
        part = slice(start, start + _ROWS)
        fitting = _Fitting(np.ascontiguousarray(groups[:, part]), moments, half)
        scale[part], integers = fitting.two_levels(fitting.best_steps())
        group_scale[part] = integers.T
    return Grid(scale, group_scale, -half, half - 1)


class _Fitting:
    """Steps of the groups [groups, rows, 64] of some rows."""

    def __init__(self, groups: Floats, moments: Floats, half: int) -> None:
        self._groups = groups
        self._moments = moments
        self._half = half

    def best_steps(self) -> Floats:
        """Of each group by itself, [groups, rows]."""
        largest = np.abs(self._groups).max(axis=2) / np.float32(self._half)
        best: Floats = np.zeros_like(largest)
        lowest = np.full_like(largest, np.inf)
        for share in SHARES:
            steps = largest * share
            error = self._errors(steps)
            is_better = error < lowest
            best[is_better], lowest[is_better] = steps[is_better], error[is_better]
        return best

    def two_levels(self, wanted: Floats) -> tuple[Floats, Floats]:
        """Scales of the rows, and integers [groups, rows] that come nearest to the wanted steps."""
        top = wanted.max(axis=0)
        scale, lowest = np.zeros_like(top), np.full_like(top, np.inf)
        integers = np.ones_like(wanted)
        for largest in LARGEST_SCALES:
            tried = top / largest
            ratio = np.divide(wanted, tried, out=np.ones_like(wanted), where=tried > 0)
            found = np.clip(np.rint(ratio), 1, _MOST)
            error = self._errors(found * tried).sum(axis=0)
            is_better = error < lowest
            scale = np.where(is_better, tried, scale)
            lowest = np.where(is_better, error, lowest)
            integers = np.where(is_better, found, integers)
        return scale, integers

    def _errors(self, steps: Floats) -> Floats:
        """Squared errors of the groups' outputs with these steps, [groups, rows]."""
        inverse = np.divide(1.0, steps, out=np.zeros_like(steps), where=steps > 0)
        codes = np.rint(self._groups * inverse[..., None])
        codes = np.clip(codes, -self._half, self._half - 1)
        difference = self._groups - codes * steps[..., None]
        errors: Floats = np.einsum("grc,grc->gr", difference @ self._moments, difference)
        return errors
