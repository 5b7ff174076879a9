"""Fewer layers: those go that change the hidden states least (arXiv 2403.03853).

The importance of a layer is one minus the mean cosine between a token's hidden state before and
after it, over the calibration text. What stays is numbered anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.codes import Floats
from autoglm.compression.forward import LayerForward, Product, product_with
from autoglm.compression.matrices import read_matrix
from autoglm.compression.units import Unit, units_of
from autoglm.errors import UsageError
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import EMBEDDING, Matrix, Vector
from autoglm.modelfile.pack import vector_bytes
from autoglm.modelfile.passes import Graph


def num_removed(num_layers: int, share: float) -> int:
    """How many layers a share of them is; UsageError when none would stay."""
    removed = round(share * num_layers)
    if removed == num_layers:
        message = f"'layers' {share:g} leaves none of {num_layers}; lower it"
        raise UsageError(message)
    return removed


def importance(graph: Graph, checkpoint: Checkpoint, ids: NDArray[np.int64]) -> list[float]:
    """One minus the mean cosine across each layer of a dense model, for ids [sequences, tokens]."""
    forward = LayerForward(graph.arch.config, ids.shape[1])
    hidden = np.empty((0, 0, 0), np.float32)
    scores = []
    for unit in units_of(graph.tensors):
        if unit.prefix:
            before = hidden.copy()
            _run(forward, unit, hidden, checkpoint)
            scores.append(1.0 - _mean_cosine(before, hidden))
        elif unit.tensors[0].name == EMBEDDING:
            embedding = unit.tensors[0]
            if isinstance(embedding, Matrix):
                hidden = read_matrix(embedding, checkpoint)[ids]
    return scores


def without_layers(graph: Graph, scores: list[float], share: float) -> Graph:
    """The graph without the least important layers."""
    removed = num_removed(len(scores), share)
    gone = set(np.argsort(np.array(scores), kind="stable")[:removed].tolist())
    kept = [number for number in range(len(scores)) if number not in gone]
    numbers = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(kept)}
    tensors: list[Matrix | Vector] = []
    for unit in units_of(graph.tensors):
        if not unit.prefix:
            tensors.extend(unit.tensors)
        elif unit.prefix in numbers:
            start = len(unit.prefix)
            tensors.extend(
                replace(tensor, name=numbers[unit.prefix] + tensor.name[start:])
                for tensor in unit.tensors
            )
    arch = replace(graph.arch, config=replace(graph.arch.config, num_layers=len(kept)))
    return replace(graph, arch=arch, tensors=tuple(tensors))


def _run(forward: LayerForward, unit: Unit, hidden: Floats, checkpoint: Checkpoint) -> None:
    matrices = {tensor.name: tensor for tensor in unit.tensors if isinstance(tensor, Matrix)}
    vectors = {
        tensor.name: np.frombuffer(vector_bytes(tensor, checkpoint), np.float32)
        for tensor in unit.tensors
        if isinstance(tensor, Vector)
    }

    def provide(name: str, _: Floats) -> Product:
        return product_with(read_matrix(matrices[name], checkpoint))

    forward.run(unit.prefix, hidden, vectors.get, provide)


def _mean_cosine(before: Floats, after: Floats) -> float:
    dots = np.einsum("...i,...i->...", before, after, dtype=np.float64)
    sizes = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return float((dots / np.maximum(sizes, 1e-30)).mean())
