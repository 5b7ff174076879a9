"""What is stored beside matrices: scales that even out columns, fixed ranges, offsets.

A column far larger than the others takes the codes of its whole row. No norm before `attn.o` and
`mlp.down` could take a scale, so one is stored with the matrix: columns are divided by it, the
engine multiplies inputs by it and packs them with 16 bits, which leave room for the spread.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoglm.compression.codes import Floats, grid_for, round_to_nearest, values_of
from autoglm.compression.recipe import Recipe
from autoglm.compression.rows import first_rows
from autoglm.modelfile.arch import INTEGER_FORMATS, WeightFormat
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import InputPart, Matrix, Vector
from autoglm.modelfile.passes import Graph

_SCALED = (".attn.o", ".mlp.down", ".moe.shared.down")
_MAX_ROWS = 512  # of a matrix that are looked at
_POWERS = tuple(np.float32(power / 16) for power in range(8, 17))
# A scale is stored when the columns' mean squared error falls at least to this part.
_WORTH = 0.25
_SIXTEEN_BITS = 32384.0
_EIGHT_BITS = 127.0
# The deviation of rounding errors, for a row whose largest value is four times its deviation.
_STEP_ERROR = 4.0 / np.sqrt(12.0)
_SMALLEST = 1e-6
_RANGES = tuple(np.float32(share / 32) for share in range(8, 33))


def with_inputs(graph: Graph, whole: Graph, checkpoint: Checkpoint, recipe: Recipe) -> Graph:
    """The graph with what its matrices will ask, going by those of `whole`, the checkpoint."""
    sources = {tensor.name: tensor for tensor in whole.tensors}

    def asking(tensor: Matrix | Vector) -> Matrix | Vector:
        source = sources[tensor.name]
        allowed = _with_all_allowed(tensor, recipe)
        if isinstance(allowed, Vector) or isinstance(source, Vector):
            return tensor
        if "scale" not in allowed.inputs:
            return allowed
        if power_for(first_rows(source, checkpoint), allowed.weights, recipe) is not None:
            return allowed
        others = tuple(part for part in allowed.inputs if part != "scale")
        return replace(allowed, inputs=others)

    return replace(graph, tensors=tuple(map(asking, graph.tensors)))


def with_most_inputs(graph: Graph, recipe: Recipe) -> Graph:
    """The graph with the most that its matrices may ask, which bounds its size."""
    tensors = tuple(_with_all_allowed(tensor, recipe) for tensor in graph.tensors)
    return replace(graph, tensors=tensors)


def _with_all_allowed(tensor: Matrix | Vector, recipe: Recipe) -> Matrix | Vector:
    if isinstance(tensor, Vector) or tensor.is_stacked or tensor.weights not in INTEGER_FORMATS:
        return tensor
    parts: list[InputPart] = []
    if recipe.input_scales and tensor.name.endswith(_SCALED):
        parts.append("scale")
    is_in_layer = tensor.name.startswith("model.layers.")
    if recipe.activations == "static" and is_in_layer:
        parts.append("range")
    has_offset = not recipe.symmetric and is_in_layer
    return replace(tensor, inputs=tuple(parts), has_offset=has_offset)


def input_scale(weights: Floats, target: WeightFormat, recipe: Recipe) -> Floats:
    """The scale of the inputs, one at its largest, of a matrix or its first rows."""
    sample = _sample(weights)
    return _scale(_deviations(sample), power_for(sample, target, recipe) or np.float32(0.0))


def power_for(weights: Floats, target: WeightFormat, recipe: Recipe) -> np.float32 | None:
    """The power of the columns' deviations that makes the best scale, None if none is worth it.

    What counts is each column's relative error, of its codes and of inputs of 16 bits, so that
    what a small column adds is not lost for being small.
    """
    sample = _sample(weights)
    deviations = _deviations(sample)

    def error(power: np.float32) -> float:
        scale = _scale(deviations, power)
        divided = sample / scale
        grid = grid_for(divided, target, granularity=recipe.granularity)
        difference = divided - values_of(round_to_nearest(divided, grid), grid)
        of_codes = np.square(difference).mean(axis=0) / np.square(deviations / scale)
        of_inputs = np.square(_STEP_ERROR / _SIXTEEN_BITS / scale)
        return float(np.minimum(of_codes + of_inputs, 1.0).mean())

    best = min(_POWERS, key=error)
    return best if error(best) < _WORTH * error(np.float32(0.0)) else None


def input_range(inputs: Floats, activation_bits: int) -> Floats:
    """The range [1] on which rounding the inputs costs least, values beyond it being cut off."""
    steps = np.float32(_EIGHT_BITS if activation_bits == 8 else _SIXTEEN_BITS)
    magnitudes = np.abs(inputs)
    largest = np.float32(max(float(magnitudes.max()), _SMALLEST))
    outer = magnitudes[magnitudes > largest * _RANGES[0]]

    def error(share: np.float32) -> float:
        """Of values within the range, evenly spread between two steps, and of those beyond."""
        end = largest * share
        beyond = np.square(np.maximum(outer - end, 0.0)).sum(dtype=np.float64)
        return inputs.size * float(end / steps) ** 2 / 12.0 + float(beyond)

    return np.array([largest * min(_RANGES, key=error)], np.float32)


def _sample(weights: Floats) -> Floats:
    """The first rows times a power of two, so that no square leaves the range of floats."""
    sample = weights[:_MAX_ROWS]
    _, exponent = np.frexp(np.abs(sample).max())
    scaled: Floats = np.ldexp(sample, -exponent)
    return scaled


def _deviations(weights: Floats) -> Floats:
    """Of the columns, none zero."""
    found = np.sqrt(np.square(weights).mean(axis=0))
    if not found.any():
        return np.ones_like(found)
    raised: Floats = np.maximum(found, np.float32(_SMALLEST) * found.max())
    return raised


def _scale(deviations: Floats, power: np.float32) -> Floats:
    scale: Floats = ((deviations / deviations.max()) ** power).astype(np.float32)
    return scale
