"""Compression of dense layers by what flows through them: each matrix meets its real inputs.

What comes after a rounded matrix is computed with it, so later matrices are chosen for the inputs
that they will meet. A finished layer is run again from its packed bytes when work is resumed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.balancing import Balancing
from autoglm.compression.codes import Floats, unpack
from autoglm.compression.forward import LayerForward, Product, rms_norm
from autoglm.compression.matrices import (
    Packed,
    pack_calibrated,
    packed_product,
    read_matrix,
    rounded_weights,
)
from autoglm.compression.recipe import Recipe
from autoglm.compression.stage import Stage
from autoglm.compression.structure import Layer, Thinning
from autoglm.compression.units import StreamedUnits, Unit
from autoglm.errors import UnsupportedModelError
from autoglm.modelfile.arch import ArchConfig
from autoglm.modelfile.checkpoint import Checkpoint, source_bytes
from autoglm.modelfile.layout import EMBEDDING, FINAL_NORM, HEAD, Matrix, Vector
from autoglm.modelfile.pack import vector_bytes
from autoglm.modelfile.passes import Graph

# The norm whose gain can take the inverse of a matrix's column scales.
_NORM_BEFORE = {"attn.qkv": "input_norm.weight", "mlp.gate_up": "mlp.norm.weight"}


def refuse_experts(config: ArchConfig, recipe: str) -> None:
    """Raise UnsupportedModelError when layers have experts, which `forward` does not run."""
    if config.num_experts:
        message = f"recipe {recipe} calibrates dense layers only; this model has experts"
        raise UnsupportedModelError(message)


class CalibratedUnits:
    """Hidden states of the calibration text, moved through the layers one after the other."""

    def __init__(
        self,
        config: ArchConfig,
        recipe: Recipe,
        checkpoint: Checkpoint,
        stage: Stage,
        ids: NDArray[np.int64],
        on_read: Callable[[int], None],
        whole: Graph,
    ) -> None:
        """`config` is that of the bundle; the layers of `whole`, the checkpoint, may be larger.

        `on_read` gets the number of source bytes read since the last call.
        """
        refuse_experts(config, recipe.name)
        self._config = config
        self._whole = {tensor.name: tensor for tensor in whole.tensors}
        self._thinning: Thinning | None = None
        if recipe.structure is not None and recipe.structure.thins:
            self._thinning = Thinning(whole.arch.config, recipe.structure, ids.shape[1])
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._stage = stage
        self._ids = ids
        self._on_read = on_read
        self._streamed = StreamedUnits(recipe, checkpoint, stage, on_read)
        self._forward = LayerForward(config, ids.shape[1])
        self._hidden = np.empty((0, 0, 0), np.float32)

    def write(self, unit: Unit) -> None:
        """Write all tensors of the unit."""
        if unit.prefix:
            self._write_layer(unit)
        elif unit.tensors[0].name == EMBEDDING:
            self._streamed.write(unit)
            self._embed(unit)
        else:
            self._write_head(unit)

    def replay(self, unit: Unit) -> None:
        """Run a finished unit from its bytes."""
        if unit.prefix:
            self._replay_layer(unit)
        elif unit.tensors[0].name == EMBEDDING:
            self._embed(unit)

    def _embed(self, unit: Unit) -> None:
        rows = [
            unpack(self._stored(matrix), matrix.weights, matrix.rows, matrix.cols)
            for matrix in unit.tensors
            if isinstance(matrix, Matrix)
        ]
        self._hidden = np.concatenate(rows)[self._ids]

    def _write_layer(self, unit: Unit) -> None:
        prefix = unit.prefix
        matrices, vectors = self._by_name(unit)
        changed: dict[str, Floats] = {}
        if self._thinning is not None or self._recipe.scaling == "awq":
            layer = Layer({name: self._weights(name) for name in matrices}, vectors)
            if self._thinning is not None:
                layer = self._thinning.thinned(prefix, layer, self._hidden)
            if self._recipe.scaling == "awq":
                layer = self._balancing(matrices).balanced(prefix, layer, self._hidden)
            changed, vectors = layer.matrices, layer.vectors

        def provide(name: str, inputs: Floats) -> Product:
            norm = f"{prefix}{_NORM_BEFORE.get(name.removeprefix(prefix), '')}"
            weights = changed.pop(name) if name in changed else self._weights(name)
            packed = self._pack(matrices[name], weights, inputs, may_scale=norm in vectors)
            self._append(matrices[name], packed)
            if packed.scales is not None:
                vectors[norm] = (vectors[norm] / packed.scales).astype(np.float32)
            return packed_product(packed.parts, matrices[name])

        self._forward.run(prefix, self._hidden, vectors.get, provide)
        for name, values in vectors.items():
            self._stage.append(name, values.tobytes())

    def _balancing(self, matrices: dict[str, Matrix]) -> Balancing:
        return Balancing(
            self._config,
            self._ids.shape[1],
            lambda name, rows: rounded_weights(rows, matrices[name], self._recipe),
        )

    def _replay_layer(self, unit: Unit) -> None:
        matrices = {tensor.name: tensor for tensor in unit.tensors if isinstance(tensor, Matrix)}
        vectors = {
            tensor.name: np.frombuffer(self._stage.read(tensor.name), np.float32)
            for tensor in unit.tensors
            if isinstance(tensor, Vector)
        }

        def provide(name: str, _: Floats) -> Product:
            return packed_product(self._stored(matrices[name]), matrices[name])

        self._forward.run(unit.prefix, self._hidden, vectors.get, provide)

    def _write_head(self, unit: Unit) -> None:
        """The last norm and, if it is not the embedding, the output matrix."""
        matrices, vectors = self._by_name(unit)
        for name, values in vectors.items():
            self._stage.append(name, values.tobytes())
        if HEAD in matrices:
            tokens = self._hidden.reshape(-1, self._hidden.shape[-1])
            inputs = rms_norm(tokens, vectors[FINAL_NORM], self._config.rms_norm_eps)
            packed = self._pack(matrices[HEAD], self._weights(HEAD), inputs, may_scale=False)
            self._append(matrices[HEAD], packed)

    def _by_name(self, unit: Unit) -> tuple[dict[str, Matrix], dict[str, Floats]]:
        matrices = {tensor.name: tensor for tensor in unit.tensors if isinstance(tensor, Matrix)}
        vectors = {
            tensor.name: np.frombuffer(vector_bytes(tensor, self._checkpoint), np.float32)
            for tensor in (self._whole[tensor.name] for tensor in unit.tensors)
            if isinstance(tensor, Vector)
        }
        return matrices, vectors

    def _weights(self, name: str) -> Floats:
        """A matrix of the checkpoint, after all passes."""
        matrix = self._whole[name]
        if isinstance(matrix, Vector):
            message = f"'{name}' is a vector"
            raise TypeError(message)
        return read_matrix(matrix, self._checkpoint)

    def _pack(self, matrix: Matrix, weights: Floats, inputs: Floats, *, may_scale: bool) -> Packed:
        return pack_calibrated(weights, matrix, self._recipe, inputs, may_scale=may_scale)

    def _append(self, matrix: Matrix, packed: Packed) -> None:
        for spec, part in zip(matrix.parts(), packed.parts, strict=True):
            self._stage.append(spec.name, part)
        self._on_read(source_bytes([matrix], self._checkpoint))

    def _stored(self, matrix: Matrix) -> list[bytes]:
        return [self._stage.read(spec.name) for spec in matrix.parts()]
