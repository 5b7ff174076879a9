"""Smaller layers: KV groups, query heads and feed-forward channels removed by what they contribute.

A channel or head counts by the energy that its inputs put through the matrix behind it. What is
left of that matrix is fitted to the output of the whole one (least squares over the calibration
text), so that channels that stay make up for those that went.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.codes import Floats
from autoglm.compression.forward import LayerForward, Product, product_with, second_moments
from autoglm.errors import UsageError
from autoglm.modelfile.arch import ArchConfig
from autoglm.modelfile.layout import ROW_BLOCK, Matrix, Vector, bundle_tensors, split_name
from autoglm.modelfile.passes import Graph

Indices = NDArray[np.intp]

_DAMPING = 0.01
_VECTORS_IN_ROWS = ("attn.qkv", "mlp.gate_up")


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """Which share goes: of the query heads of each KV group that stays, of the feed-forward
    channels, of the KV groups with all their heads, and of the layers (depth.py removes those).
    """

    heads: float
    channels: float
    kv_groups: float = 0.0
    layers: float = 0.0

    @property
    def thins(self) -> bool:
        """Whether layers get smaller, not only fewer."""
        return max(self.heads, self.channels, self.kv_groups) > 0.0


@dataclass(frozen=True, slots=True)
class Layer:
    """The matrices and vectors of a layer by the names of their tensors."""

    matrices: dict[str, Floats]
    vectors: dict[str, Floats]


def smaller_config(config: ArchConfig, structure: Structure) -> ArchConfig:
    """The sizes after removal; UsageError when nothing would be left, and so a dead layer."""
    group = config.num_heads // config.num_kv_heads
    kept_of_group = group - round(structure.heads * group)
    kept_groups = config.num_kv_heads - round(structure.kv_groups * config.num_kv_heads)
    kept_channels = config.intermediate_size - round(structure.channels * config.intermediate_size)
    for name, share, kept in (
        ("heads", structure.heads, kept_of_group),
        ("channels", structure.channels, kept_channels),
        ("kv_groups", structure.kv_groups, kept_groups),
    ):
        if kept < 1:
            message = f"'{name}' {share:g} leaves none in a layer; lower it"
            raise UsageError(message)
    return replace(
        config,
        num_heads=kept_of_group * kept_groups,
        num_kv_heads=kept_groups,
        intermediate_size=kept_channels,
    )


def smaller_graph(graph: Graph, structure: Structure) -> Graph:
    """What the bundle will hold: layers of smaller matrices, in the formats of the whole ones."""
    arch = replace(graph.arch, config=smaller_config(graph.arch.config, structure))
    targets = {tensor.name: tensor for tensor in bundle_tensors(arch)}

    def smaller(tensor: Matrix | Vector) -> Matrix | Vector:
        if not split_name(tensor.name)[0]:
            return tensor
        target = targets[tensor.name]
        if isinstance(target, Matrix) and isinstance(tensor, Matrix):
            return replace(target, weights=tensor.weights)
        return target

    return replace(graph, arch=arch, tensors=tuple(map(smaller, graph.tensors)))


def config_changes(config: ArchConfig) -> dict[str, object]:
    """The keys of config.json that say how large the layers are."""
    return {
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
    }


class Thinning:
    """Makes layers smaller, one after the other."""

    def __init__(self, config: ArchConfig, structure: Structure, num_tokens: int) -> None:
        self._config = config
        self._smaller = smaller_config(config, structure)
        self._forward = LayerForward(config, num_tokens)

    def thinned(self, prefix: str, layer: Layer, hidden: Floats) -> Layer:
        """The smaller layer, for the hidden states it will meet."""
        energies: dict[str, Floats] = {}

        def provide(name: str, inputs: Floats) -> Product:
            if name.removeprefix(prefix) in ("attn.o", "mlp.down"):
                energies[name] = second_moments(inputs)
            return product_with(layer.matrices[name])

        self._forward.run(prefix, hidden.copy(), layer.vectors.get, provide)
        matrices, vectors = dict(layer.matrices), dict(layer.vectors)
        columns = {
            f"{prefix}attn.o": self._kept_head_columns,
            f"{prefix}mlp.down": self._kept_channels,
        }
        kept: dict[str, Indices] = {}
        for name, choose in columns.items():
            moments = energies[name]
            kept[name] = choose(np.diag(moments) * np.square(matrices[name]).sum(axis=0))
            matrices[name] = fitted(matrices[name], moments, kept[name])
        rows = {
            "attn.qkv": self._qkv_rows(kept[f"{prefix}attn.o"]),
            "mlp.gate_up": self._gate_up_rows(kept[f"{prefix}mlp.down"]),
        }
        for module in _VECTORS_IN_ROWS:
            matrices[f"{prefix}{module}"] = _taken(matrices[f"{prefix}{module}"], rows[module])
            bias = vectors.get(f"{prefix}{module}.bias")
            if bias is not None:
                vectors[f"{prefix}{module}.bias"] = _taken(bias, rows[module])
        return Layer(matrices, vectors)

    def _kept_head_columns(self, scores: Floats) -> Indices:
        """The columns of the heads that stay, the same number in every KV group that stays."""
        config = self._config
        by_group = scores.reshape(config.num_kv_heads, -1, config.head_dim).sum(axis=2)
        num_groups = self._smaller.num_kv_heads
        num_kept = self._smaller.num_heads // num_groups
        best = np.sort(np.argsort(-by_group, axis=1, kind="stable")[:, :num_kept], axis=1)
        energy = np.take_along_axis(by_group, best, axis=1).sum(axis=1)
        groups = np.sort(np.argsort(-energy, kind="stable")[:num_groups])
        heads = (best[groups] + groups[:, None] * by_group.shape[1]).reshape(-1)
        return _spread(heads, config.head_dim)

    def _kept_channels(self, scores: Floats) -> Indices:
        best = np.argsort(-scores, kind="stable")[: self._smaller.intermediate_size]
        return np.sort(best)

    def _qkv_rows(self, query_rows: Indices) -> Indices:
        """The query rows that stay, then those of k and v of their groups."""
        config = self._config
        first, size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        groups = np.unique(query_rows // (first // config.num_kv_heads))
        keys = first + _spread(groups, config.head_dim)
        return np.concatenate([query_rows, keys, keys + size])

    def _gate_up_rows(self, channels: Indices) -> Indices:
        """Rows of gate and up, alternating in blocks of 16; -1 for the zeros that fill a block."""
        padding = -len(channels) % ROW_BLOCK
        gate = channels // ROW_BLOCK * 2 * ROW_BLOCK + channels % ROW_BLOCK
        sides = [
            np.pad(gate + side * ROW_BLOCK, (0, padding), constant_values=-1) for side in (0, 1)
        ]
        return np.stack([side.reshape(-1, ROW_BLOCK) for side in sides], axis=1).reshape(-1)


def fitted(weights: Floats, moments: Floats, kept: Indices) -> Floats:
    """The columns `kept`, changed so that they come closest to the whole matrix's outputs.

    `moments` is the sum of x^T x over its inputs x.
    """
    square = moments[np.ix_(kept, kept)].astype(np.float64)
    diagonal = np.diag(square)
    damping = _DAMPING * float(diagonal.mean()) or 1.0
    # Damping pulls towards W[:, kept], which is where nothing is removed.
    wanted = weights.astype(np.float64) @ moments[:, kept] + damping * weights[:, kept]
    regular = square + damping * np.eye(len(kept))
    return np.linalg.solve(regular, wanted.T).T.astype(np.float32)


def _spread(heads: Indices, head_dim: int) -> Indices:
    return (heads[:, None] * head_dim + np.arange(head_dim)).reshape(-1)


def _taken(rows: Floats, indices: Indices) -> Floats:
    """These rows, zeros for -1."""
    taken = rows[indices]
    taken[indices < 0] = 0.0
    return taken
