"""Formats of matrices under a limit of bytes, chosen by how much rounding each one changes.

The error of a matrix in a format is the relative change of its layer's output when it alone is
rounded to nearest, over some calibration text. From the recipe's formats upwards, the step that
takes most error off for its bytes comes first, as long as it fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.codes import Floats, pack_floats, unpack
from autoglm.compression.forward import LayerForward, product_with, rms_norm
from autoglm.compression.matrices import read_matrix
from autoglm.compression.units import Unit, units_of
from autoglm.errors import UsageError
from autoglm.modelfile.arch import WeightFormat
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import EMBEDDING, FINAL_NORM, HEAD, Matrix, Tensors, Vector
from autoglm.modelfile.pack import vector_bytes
from autoglm.modelfile.passes import Graph
from autoglm.modelfile.safetensors_writer import file_bytes

LADDER: tuple[WeightFormat, ...] = ("int3", "int4", "int8", "bf16")
MIB = 2**20
_MAX_SEQUENCES = 4
_MAX_TOKENS = 256

# Of a matrix in a format.
Errors = Mapping[tuple[str, WeightFormat], float]


def remembered(text: str, budget_mib: float) -> str:
    """A recipe's text with the budget noted; config.json names the formats."""
    return f"{text.rstrip()}\n# Formats chosen within {budget_mib:g} MiB.\n"


def formats_within(
    graph: Graph, checkpoint: Checkpoint, ids: NDArray[np.int64], budget_bytes: int
) -> dict[str, WeightFormat]:
    """The formats of matrices that are to differ from those of the graph.

    UsageError when even those of the graph do not fit.
    """
    smallest = _num_bytes(graph.tensors)
    if smallest > budget_bytes:
        message = (
            f"a budget of {budget_bytes / MIB:.1f} MiB is too small; this recipe needs "
            f"{smallest / MIB:.1f}"
        )
        raise UsageError(message)
    sample = ids[:_MAX_SEQUENCES, :_MAX_TOKENS]
    return chosen_formats(graph.tensors, measured_errors(graph, checkpoint, sample), budget_bytes)


def chosen_formats(tensors: Tensors, errors: Errors, budget_bytes: int) -> dict[str, WeightFormat]:
    """The steps up the ladder that fit, those of most error a byte first."""
    matrices = {tensor.name: tensor for tensor in tensors if isinstance(tensor, Matrix)}
    formats = {name: matrix.weights for name, matrix in matrices.items()}
    refused: set[str] = set()
    while True:
        steps = []
        for name, matrix in matrices.items():
            higher = None if name in refused else _higher(formats[name])
            if higher is None:
                continue
            cost = _size(matrix, higher) - _size(matrix, formats[name])
            gain = errors[name, formats[name]] - errors[name, higher]
            if gain > 0:
                steps.append((gain / cost, name, higher))
        if not steps:
            break
        _, name, higher = max(steps)
        if _num_bytes(_in_formats(tensors, {**formats, name: higher})) <= budget_bytes:
            formats[name] = higher
        else:
            refused.add(name)
    return {name: kind for name, kind in formats.items() if kind != matrices[name].weights}


def measured_errors(graph: Graph, checkpoint: Checkpoint, ids: NDArray[np.int64]) -> Errors:
    """For every matrix, in its format and those above it."""
    forward = LayerForward(graph.arch.config, ids.shape[1])
    hidden = np.empty((0, 0, 0), np.float32)
    errors: dict[tuple[str, WeightFormat], float] = {}
    for unit in units_of(graph.tensors):
        if unit.prefix:
            hidden = _measure_layer(forward, unit, hidden, checkpoint, errors)
            continue
        vectors = _vectors(unit, checkpoint)
        for tensor in unit.tensors:
            if not isinstance(tensor, Matrix):
                continue
            weights = read_matrix(tensor, checkpoint)
            if tensor.name == EMBEDDING:
                hidden = weights[ids]
            for kind in _ladder_from(tensor.weights):
                changed = _rounded(weights, kind)
                if tensor.name == HEAD:
                    inputs = rms_norm(
                        hidden.reshape(-1, hidden.shape[-1]),
                        vectors[FINAL_NORM],
                        graph.arch.config.rms_norm_eps,
                    )
                    error = _relative(inputs @ changed.T, inputs @ weights.T)
                else:
                    error = _relative(changed[ids], hidden)
                errors[tensor.name, kind] = error
    return errors


def _measure_layer(
    forward: LayerForward,
    unit: Unit,
    hidden: Floats,
    checkpoint: Checkpoint,
    errors: dict[tuple[str, WeightFormat], float],
) -> Floats:
    """The hidden states after the layer as it is; adds the errors of its matrices."""
    matrices = [tensor for tensor in unit.tensors if isinstance(tensor, Matrix)]
    vectors = _vectors(unit, checkpoint)
    weights = {matrix.name: read_matrix(matrix, checkpoint) for matrix in matrices}

    def outputs(changes: Mapping[str, Floats]) -> Floats:
        result = hidden.copy()
        used = {**weights, **changes}
        forward.run(unit.prefix, result, vectors.get, lambda name, _: product_with(used[name]))
        return result

    exact = outputs({})
    for matrix in matrices:
        for kind in _ladder_from(matrix.weights):
            changed = outputs({matrix.name: _rounded(weights[matrix.name], kind)})
            errors[matrix.name, kind] = _relative(changed, exact)
    return exact


def _vectors(unit: Unit, checkpoint: Checkpoint) -> dict[str, Floats]:
    return {
        tensor.name: np.frombuffer(vector_bytes(tensor, checkpoint), np.float32)
        for tensor in unit.tensors
        if isinstance(tensor, Vector)
    }


def _rounded(weights: Floats, kind: WeightFormat) -> Floats:
    return unpack(pack_floats(weights, kind), kind, *weights.shape)


def _relative(changed: Floats, exact: Floats) -> float:
    difference = np.square(changed - exact, dtype=np.float64).sum()
    return float(difference / max(np.square(exact, dtype=np.float64).sum(), 1e-30))


def _ladder_from(kind: WeightFormat) -> Sequence[WeightFormat]:
    return LADDER[LADDER.index(kind) :] if kind in LADDER else (kind,)


def _higher(kind: WeightFormat) -> WeightFormat | None:
    rest = _ladder_from(kind)[1:]
    return rest[0] if rest else None


def _size(matrix: Matrix, kind: WeightFormat) -> int:
    """In the file, with its part of the header."""
    return file_bytes(replace(matrix, weights=kind).parts())


def _in_formats(tensors: Tensors, formats: Mapping[str, WeightFormat]) -> Tensors:
    return tuple(
        replace(tensor, weights=formats[tensor.name]) if isinstance(tensor, Matrix) else tensor
        for tensor in tensors
    )


def _num_bytes(tensors: Tensors) -> int:
    return file_bytes([spec for tensor in tensors for spec in tensor.parts()])
