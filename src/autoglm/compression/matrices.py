"""One matrix of a layer: read as floats, scaled, rounded as the recipe says, packed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from autoglm import _core
from autoglm.compression.clipping import clipped_grid, group_moments
from autoglm.compression.codes import (
    NUM_CODES,
    Floats,
    Grid,
    grid_for,
    pack_codes,
    pack_floats,
    pack_offsets,
    round_to_nearest,
    values_of,
)
from autoglm.compression.forward import Product, second_moments
from autoglm.compression.gptq import gptq, sparsegpt
from autoglm.compression.inputs import input_range, input_scale
from autoglm.compression.pruning import Pruning, kept_weights
from autoglm.compression.recipe import Recipe
from autoglm.compression.rows import divided, first_rows, float_chunks
from autoglm.compression.scaling import smoothquant_scales
from autoglm.modelfile.arch import GROUPED_FORMATS, INTEGER_FORMATS, WeightFormat
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import GROUP_SIZE, OFFSET_FORMAT, Matrix
from autoglm.modelfile.pack import pack_matrix


class Packed(NamedTuple):
    """The parts of a matrix, and what its columns were multiplied by for a norm to undo."""

    parts: list[bytes]
    scales: Floats | None


def stream_parts(
    matrix: Matrix, checkpoint: Checkpoint, recipe: Recipe
) -> Iterator[tuple[int, list[bytes]]]:
    """Source bytes read and the next bytes of each part, without a look at activations."""
    is_coarse = recipe.granularity == "tensor" and matrix.weights == "int8"
    pruning = recipe.pruning if may_prune(matrix) else None
    is_plain = not matrix.inputs and not matrix.has_offset
    if is_plain and not is_coarse and pruning is None:
        yield from pack_matrix(matrix, checkpoint)
        return
    divisor = np.ones(matrix.cols, np.float32)
    if "scale" in matrix.inputs:
        divisor = input_scale(first_rows(matrix, checkpoint), matrix.weights, recipe)
    largest = _largest(matrix, checkpoint, divisor) if is_coarse else 0.0
    # The first rows bring what is stored once.
    once = [divisor.tobytes()] if "scale" in matrix.inputs else []
    for num_read, rows in float_chunks(matrix, checkpoint):
        weights = divided(rows, divisor, matrix)
        kept = weights if pruning is None else weights * kept_weights(np.abs(weights), pruning)
        offsets: list[bytes] = []
        if matrix.has_offset:
            offsets, kept = pack_offsets(kept)
        if is_coarse:
            grid = Grid(np.full(len(kept), np.float32(largest / 127.0)), None, -127, 127)
            parts = pack_codes(round_to_nearest(kept, grid), grid, matrix.weights)
        else:
            parts = pack_floats(kept, matrix.weights)
        yield num_read, parts + offsets + once
        once = [b""] * len(once)


def may_prune(matrix: Matrix) -> bool:
    """Whether it belongs to a layer: embedding and head keep all their weights."""
    return matrix.name.startswith("model.layers.")


def read_matrix(matrix: Matrix, checkpoint: Checkpoint) -> Floats:
    """The whole matrix, which is no stack."""
    return np.concatenate([weights for _, weights in float_chunks(matrix, checkpoint)])


def pack_calibrated(
    weights: Floats, matrix: Matrix, recipe: Recipe, inputs: Floats, *, may_scale: bool
) -> Packed:
    """The matrix by the recipe's method, given the inputs [num_tokens, cols] that it meets.

    `may_scale` says that something before the matrix can take the inverse of column scales.
    """
    if "scale" not in matrix.inputs:
        return _packed(weights, matrix, recipe, inputs, may_scale=may_scale)
    scale = input_scale(weights, matrix.weights, recipe)
    even = divided(weights, scale, matrix)
    packed = _packed(even, matrix, recipe, inputs * scale, may_scale=False)
    num_own = len(packed.parts) - len(matrix.inputs) + 1
    parts = [*packed.parts[:num_own], scale.tobytes(), *packed.parts[num_own:]]
    return Packed(parts, None)


def rounded_weights(weights: Floats, matrix: Matrix, recipe: Recipe) -> Floats:
    """What rounding to nearest leaves of some rows of a matrix."""
    if matrix.weights not in INTEGER_FORMATS:
        return weights
    scale = np.ones(matrix.cols, np.float32)
    if "scale" in matrix.inputs:
        scale = input_scale(weights, matrix.weights, recipe)
    even = divided(weights, scale, matrix)
    grid = _grid(even, matrix.weights, recipe, None)
    return values_of(round_to_nearest(even, grid), grid) * scale


def packed_product(parts: list[bytes], matrix: Matrix) -> Product:
    """The engine's product with a matrix as it is stored, for inputs of 16 bits."""
    num_own = len(_core.packed_shapes(matrix.weights, matrix.rows, matrix.cols))
    first_of_inputs = len(parts) - len(matrix.inputs)
    scale = None
    if "scale" in matrix.inputs:
        scale = np.frombuffer(parts[first_of_inputs + matrix.inputs.index("scale")], np.float32)

    def multiply(inputs: Floats) -> Floats:
        scaled = np.ascontiguousarray(inputs if scale is None else inputs * scale)
        outputs = _core.gemm(matrix.weights, parts[:num_own], matrix.rows, scaled, threads=0)
        if matrix.has_offset:
            sums = np.add.reduceat(scaled, np.arange(0, matrix.cols, GROUP_SIZE), axis=1)
            offsets = parts[num_own:first_of_inputs]
            outputs += _core.gemm(OFFSET_FORMAT, offsets, matrix.rows, sums, threads=0)
        return outputs

    return multiply


def _packed(
    weights: Floats, matrix: Matrix, recipe: Recipe, inputs: Floats, *, may_scale: bool
) -> Packed:
    """The matrix for these inputs, and their range if it is to be fixed."""
    target = matrix.weights
    pruning = recipe.pruning if may_prune(matrix) else None
    is_integer = target in INTEGER_FORMATS
    scales = None
    if recipe.scaling == "smoothquant" and may_scale and is_integer:
        scales = smoothquant_scales(weights, inputs, recipe.smoothing)
        weights = weights * scales
        inputs = inputs / scales
    offsets: list[bytes] = []
    if matrix.has_offset:
        offsets, weights = pack_offsets(weights)
    hessian = None
    if pruning is not None or recipe.method == "gptq":
        hessian = second_moments(inputs)
    if pruning is not None and hessian is not None and pruning.method != "sparsegpt":
        weights = weights * kept_weights(_wanda_scores(weights, pruning, hessian), pruning)
    grid = None
    if is_integer:
        grid = _calibrated_grid(weights, target, recipe, inputs, hessian)
    if pruning is not None and hessian is not None and pruning.method == "sparsegpt":
        weights = sparsegpt(weights, grid, hessian, pruning)
    if grid is None:
        parts = pack_floats(weights, target)
    elif recipe.method == "gptq" and hessian is not None:
        parts = pack_codes(gptq(weights, grid, hessian), grid, target)
    else:
        parts = pack_codes(round_to_nearest(weights, grid), grid, target)
    parts = [*parts, *offsets]
    if "range" in matrix.inputs:
        parts = [*parts, input_range(inputs, recipe.activation_bits).tobytes()]
    return Packed(parts, scales)


def _wanda_scores(weights: Floats, pruning: Pruning, hessian: Floats) -> Floats:
    magnitude = np.abs(weights)
    return magnitude if pruning.method == "magnitude" else magnitude * np.sqrt(np.diag(hessian))


def _calibrated_grid(
    weights: Floats,
    target: WeightFormat,
    recipe: Recipe,
    inputs: Floats,
    hessian: Floats | None,
) -> Grid:
    # GPTQ moves errors between groups, so what a group's own outputs lose says little there.
    if recipe.scaling == "awq" and recipe.method == "rtn" and target in GROUPED_FORMATS:
        return clipped_grid(weights, group_moments(inputs), NUM_CODES[target])
    importance = None if hessian is None else np.diag(hessian)
    return _grid(weights, target, recipe, importance)


def _grid(weights: Floats, target: WeightFormat, recipe: Recipe, importance: Floats | None) -> Grid:
    return grid_for(weights, target, granularity=recipe.granularity, importance=importance)


def _largest(matrix: Matrix, checkpoint: Checkpoint, divisor: Floats) -> float:
    chunks = (divided(rows, divisor, matrix) for _, rows in float_chunks(matrix, checkpoint))
    return max(float(np.abs(weights).max()) for weights in chunks)
