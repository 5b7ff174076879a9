"""One matrix of a layer: read as floats, scaled, rounded as the recipe says, packed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from autoglm.compression.codes import (
    Floats,
    Grid,
    int4_grid,
    int8_grid,
    pack_codes,
    pack_floats,
    round_to_nearest,
    unpack,
    values_of,
)
from autoglm.compression.forward import second_moments
from autoglm.compression.gptq import gptq, sparsegpt
from autoglm.compression.pruning import Pruning, kept_weights
from autoglm.compression.recipe import Recipe
from autoglm.compression.scaling import awq_scales, smoothquant_scales
from autoglm.errors import ModelFileError
from autoglm.modelfile.arch import INTEGER_FORMATS, WeightFormat
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import Matrix
from autoglm.modelfile.pack import float_rows, pack_matrix


class Packed(NamedTuple):
    """The parts of a matrix, what they stand for, and what its columns were multiplied by."""

    parts: list[bytes]
    values: Floats
    scales: Floats | None


def stream_parts(
    matrix: Matrix, checkpoint: Checkpoint, recipe: Recipe
) -> Iterator[tuple[int, list[bytes]]]:
    """Source bytes read and the next bytes of each part, without a look at activations."""
    is_coarse = recipe.granularity == "tensor" and matrix.weights == "int8"
    is_short = recipe.bits == 3 and matrix.weights == "int4"
    pruning = recipe.pruning if may_prune(matrix) else None
    if not is_coarse and not is_short and pruning is None:
        yield from pack_matrix(matrix, checkpoint)
        return
    scale = np.float32(_largest(matrix, checkpoint) / 127.0) if is_coarse else np.float32(0.0)
    for num_read, weights in _float_chunks(matrix, checkpoint):
        kept = weights if pruning is None else weights * kept_weights(np.abs(weights), pruning)
        if is_coarse:
            grid = Grid(np.full(len(kept), scale), None, -127, 127)
        elif is_short:
            grid = int4_grid(kept, bits=recipe.bits)
        else:
            yield num_read, pack_floats(kept, matrix.weights)
            continue
        yield num_read, pack_codes(round_to_nearest(kept, grid), grid, matrix.weights)


def may_prune(matrix: Matrix) -> bool:
    """Whether it belongs to a layer: embedding and head keep all their weights."""
    return matrix.name.startswith("model.layers.")


def read_matrix(matrix: Matrix, checkpoint: Checkpoint) -> Floats:
    """The whole matrix, which is no stack."""
    return np.concatenate([weights for _, weights in _float_chunks(matrix, checkpoint)])


def pack_calibrated(
    weights: Floats,
    target: WeightFormat,
    recipe: Recipe,
    inputs: Floats,
    *,
    may_scale: bool,
    pruning: Pruning | None,
) -> Packed:
    """The matrix by the recipe's method, given the inputs [num_tokens, cols] that it meets.

    `may_scale` says that something before the matrix can take the inverse of column scales.
    """
    is_integer = target in INTEGER_FORMATS
    scales = _scales(weights, target, recipe, inputs) if may_scale and is_integer else None
    if scales is not None:
        weights = weights * scales
        inputs = inputs / scales
    hessian = None
    if pruning is not None or recipe.method == "gptq":
        hessian = second_moments(inputs)
    if pruning is not None and hessian is not None and pruning.method != "sparsegpt":
        weights = weights * kept_weights(_wanda_scores(weights, pruning, hessian), pruning)
    grid = None
    if is_integer:
        importance = None if hessian is None else np.diag(hessian)
        grid = _grid(weights, target, recipe, importance)
    if pruning is not None and hessian is not None and pruning.method == "sparsegpt":
        weights = sparsegpt(weights, grid, hessian, pruning)
    if grid is None:
        parts = pack_floats(weights, target)
    elif recipe.method == "gptq" and hessian is not None:
        parts = pack_codes(gptq(weights, grid, hessian), grid, target)
    else:
        parts = pack_codes(round_to_nearest(weights, grid), grid, target)
    return Packed(parts, unpack(parts, target, *weights.shape), scales)


def _wanda_scores(weights: Floats, pruning: Pruning, hessian: Floats) -> Floats:
    magnitude = np.abs(weights)
    return magnitude if pruning.method == "magnitude" else magnitude * np.sqrt(np.diag(hessian))


def _scales(weights: Floats, target: WeightFormat, recipe: Recipe, inputs: Floats) -> Floats | None:
    if recipe.scaling == "smoothquant":
        return smoothquant_scales(weights, inputs, recipe.smoothing)
    if recipe.scaling == "awq":
        return awq_scales(weights, inputs, _rounding(target, recipe))
    return None


def _rounding(target: WeightFormat, recipe: Recipe) -> Callable[[Floats], Floats]:
    def rounded(weights: Floats) -> Floats:
        grid = _grid(weights, target, recipe, None)
        return values_of(round_to_nearest(weights, grid), grid)

    return rounded


def _grid(weights: Floats, target: WeightFormat, recipe: Recipe, importance: Floats | None) -> Grid:
    if target != "int4":
        return int8_grid(weights, recipe.granularity)
    return int4_grid(weights, bits=min(recipe.bits, 4), importance=importance)


def _largest(matrix: Matrix, checkpoint: Checkpoint) -> float:
    return max(float(np.abs(rows).max()) for _, rows in _float_chunks(matrix, checkpoint))


def _float_chunks(matrix: Matrix, checkpoint: Checkpoint) -> Iterator[tuple[int, Floats]]:
    for num_read, data in float_rows(matrix, checkpoint):
        weights = np.frombuffer(data, np.float32).reshape(-1, matrix.cols)
        if not np.isfinite(weights).all():
            names = sorted({rows.source for rows in matrix.pieces})
            message = f"tensor '{names[0]}' or one packed with it holds NaN or infinity"
            raise ModelFileError(message)
        yield num_read, weights
