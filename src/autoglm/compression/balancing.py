"""AWQ's scales for all four matrices of a dense layer, each undone exactly by what comes before it.

Before the first matrices of attention and feed-forward that is a norm's gain, before `attn.o` the
rows of values, which the query heads of a KV group share, before `mlp.down` the rows of `up`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.codes import Floats
from autoglm.compression.forward import LayerForward, Product, product_with, second_moments
from autoglm.compression.scaling import awq_scales
from autoglm.compression.structure import Layer
from autoglm.modelfile.arch import ArchConfig
from autoglm.modelfile.layout import ROW_BLOCK

# What rounding leaves of some rows of the matrix of this name.
Rounded = Callable[[str, Floats], Floats]

_SEQUENCES = 8  # of the calibration text that scales are searched on


class Balancing:
    """Moves scales within layers, one layer after the other."""

    def __init__(self, config: ArchConfig, num_tokens: int, rounded: Rounded) -> None:
        self._config = config
        self._forward = LayerForward(config, num_tokens)
        self._rounded = rounded

    def balanced(self, prefix: str, layer: Layer, hidden: Floats) -> Layer:
        """The layer with other columns and the same outputs, for the hidden states it meets."""
        inputs: dict[str, Floats] = {}

        def provide(name: str, found: Floats) -> Product:
            inputs[name] = found
            return product_with(layer.matrices[name])

        sample = hidden[:: max(1, len(hidden) // _SEQUENCES)].copy()
        self._forward.run(prefix, sample, layer.vectors.get, provide)
        balanced = Layer(dict(layer.matrices), dict(layer.vectors))
        for module, norm in (
            ("attn.qkv", "input_norm.weight"),
            ("mlp.gate_up", "mlp.norm.weight"),
        ):
            name, gain = f"{prefix}{module}", f"{prefix}{norm}"
            scales = self._scales(name, layer.matrices[name], inputs[name])
            balanced.matrices[name] = layer.matrices[name] * scales
            balanced.vectors[gain] = layer.vectors[gain] / scales
        for module, before, rows in (
            ("attn.o", "attn.qkv", self._value_rows()),
            ("mlp.down", "mlp.gate_up", self._up_rows()),
        ):
            name = f"{prefix}{module}"
            scales = self._scales(name, layer.matrices[name], inputs[name], rows)
            balanced.matrices[name] = layer.matrices[name] * scales
            _divide(balanced.matrices, f"{prefix}{before}", rows, scales)
            _divide(balanced.vectors, f"{prefix}{before}.bias", rows, scales)
        return balanced

    def _scales(
        self, name: str, weights: Floats, inputs: Floats, shared: NDArray[np.intp] | None = None
    ) -> Floats:
        """Those of the columns, the same where they are made by the same row."""
        activity = np.abs(inputs).mean(axis=0)
        if shared is not None:
            sums = np.bincount(shared, activity)[shared]
            activity = (sums / np.bincount(shared)[shared]).astype(np.float32)
        moments = second_moments(inputs)
        return awq_scales(weights, activity, moments, lambda rows: self._rounded(name, rows))

    def _value_rows(self) -> NDArray[np.intp]:
        """For each column of `attn.o` the row of `attn.qkv` that makes its values."""
        config = self._config
        first = (config.num_heads + config.num_kv_heads) * config.head_dim
        groups = np.arange(config.num_heads) // (config.num_heads // config.num_kv_heads)
        return (first + groups[:, None] * config.head_dim + np.arange(config.head_dim)).reshape(-1)

    def _up_rows(self) -> NDArray[np.intp]:
        """For each column of `mlp.down` its row of `up`, which alternates with gate by blocks."""
        channels = np.arange(self._config.intermediate_size)
        return channels // ROW_BLOCK * 2 * ROW_BLOCK + ROW_BLOCK + channels % ROW_BLOCK


def _divide(tensors: dict[str, Floats], name: str, rows: NDArray[np.intp], scales: Floats) -> None:
    if name not in tensors:
        return
    divisor = np.ones(len(tensors[name]), np.float32)
    divisor[rows] = scales
    tensors[name] = tensors[name] / divisor.reshape(-1, *(1,) * (tensors[name].ndim - 1))
