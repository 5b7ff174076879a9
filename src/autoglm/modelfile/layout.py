"""The tensors a model's steps read, as the checkpoint's rows that each is made of.

`source_tensors` has one entry a module of the checkpoint, `bundle_tensors` what the engine reads
after the merges that it needs: q, k and v one below the other, gate and up rows alternating in
blocks of 16 (each padded to whole blocks). Experts are stacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from autoglm import _core
from autoglm.modelfile.arch import Architecture, WeightFormat
from autoglm.modelfile.safetensors_writer import TensorSpec

ROW_BLOCK = 16
TILE_ROWS, TILE_COLS = 32, 64  # what block8 stores or leaves out
GROUP_SIZE = 64
OFFSET_FORMAT: WeightFormat = "int8"
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens", "lm_head", "model.norm.weight"

# Which side of a tensor meets the residual stream: a matrix reads it by its columns or writes it by
# its rows.
Side = Literal["columns", "rows"]

# What a matrix may ask of its inputs: to be multiplied by a vector stored with it, or to be rounded
# on a fixed range.
InputPart = Literal["scale", "range"]
INPUT_PARTS: tuple[InputPart, ...] = get_args(InputPart)


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` rows from row `start` of a checkpoint tensor of shape `source_shape`."""

    source: str
    source_shape: tuple[int, ...]
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed linear layer, or a stack of them: one entry of `experts` each.

    `is_interleaved` matrices have two pieces, gate and up, whose rows alternate. Passes ask for
    columns multiplied by the vector `column_gain`, and for a rotation of one side. With
    `has_offset` a matrix of a column for every GROUP_SIZE of its columns follows the packed parts,
    which was taken from its weights. Then come `inputs`; columns have been divided by a "scale".
    """

    name: str
    cols: int
    experts: tuple[tuple[Rows, ...], ...]
    weights: WeightFormat
    is_interleaved: bool = False
    is_stacked: bool = False
    column_gain: Rows | None = None
    rotated: Side | None = None
    inputs: tuple[InputPart, ...] = ()
    has_offset: bool = False

    @property
    def rows(self) -> int:
        """Rows of one packed matrix, with the padding between gate and up."""
        return _total_rows(self.experts[0], self.is_interleaved)

    @property
    def pieces(self) -> tuple[Rows, ...]:
        """All checkpoint rows in it."""
        return tuple(rows for pieces in self.experts for rows in pieces)

    def parts(self) -> list[TensorSpec]:
        """The tensors that store it."""
        stack = (len(self.experts),) if self.is_stacked else ()
        specs = [
            TensorSpec(f"{self.name}.{suffix}", dtype, (*stack, *shape))
            for suffix, dtype, shape in _core.packed_shapes(self.weights, self.rows, self.cols)
        ]
        if self.has_offset:
            shapes = _core.packed_shapes(OFFSET_FORMAT, self.rows, -(-self.cols // GROUP_SIZE))
            specs += [
                TensorSpec(f"{self.name}.offset.{suffix}", dtype, tuple(shape))
                for suffix, dtype, shape in shapes
            ]
        sizes = {"scale": self.cols, "range": 1}
        specs += [
            TensorSpec(f"{self.name}.input_{part}", "F32", (sizes[part],)) for part in self.inputs
        ]
        return specs


@dataclass(frozen=True, slots=True)
class Vector:
    """A float32 tensor; it may have a second dimension (routers).

    `is_ones` replaces the values of a gain that a pass has moved elsewhere; the other fields of a
    Matrix mean the same here.
    """

    name: str
    pieces: tuple[Rows, ...]
    is_interleaved: bool = False
    is_ones: bool = False
    column_gain: Rows | None = None
    rotated: Side | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape."""
        return (_total_rows(self.pieces, self.is_interleaved), *self.pieces[0].source_shape[1:])

    @property
    def is_bias(self) -> bool:
        """Whether it is the bias of a linear layer, which may be absent when it is zero."""
        return self.name.endswith(".bias") and not self.name.endswith("moe.router.bias")

    def parts(self) -> list[TensorSpec]:
        """Itself, whatever the weight format."""
        return [TensorSpec(self.name, "F32", self.shape)]


Tensors = tuple[Matrix | Vector, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """Modules that the engine reads as one."""

    modules: tuple[str, ...]
    into: str
    is_interleaved: bool


MERGE_QKV = (Merge(("attn.q", "attn.k", "attn.v"), "attn.qkv", is_interleaved=False),)
MERGE_GATE_UP = tuple(
    Merge((f"{part}.gate", f"{part}.up"), f"{part}.gate_up", is_interleaved=True)
    for part in ("mlp", "moe.experts", "moe.shared")
)


def source_tensors(arch: Architecture) -> Tensors:
    """All tensors in the order of execution, which is their order in the file."""
    config = arch.config
    vocabulary = (config.vocab_size, config.hidden_size)
    tensors: list[Matrix | Vector] = [_matrix(EMBEDDING, vocabulary, config.weights)]
    for layer in range(config.num_layers):
        tensors.extend(_Layer(arch, layer).tensors())
    tensors.append(_vector(FINAL_NORM, FINAL_NORM, (config.hidden_size,)))
    if not config.tie_word_embeddings:
        tensors.append(_matrix(HEAD, vocabulary, config.weights))
    return tuple(tensors)


def bundle_tensors(arch: Architecture) -> Tensors:
    """What a bundle of one format holds, in the order of its file."""
    return merge(source_tensors(arch), (*MERGE_QKV, *MERGE_GATE_UP))


def merge(tensors: Tensors, merges: tuple[Merge, ...]) -> Tensors:
    """The modules of each merge as one tensor, at the place of the first."""
    targets = {module: entry for entry in merges for module in entry.modules}
    by_name = {tensor.name: tensor for tensor in tensors}
    result: list[Matrix | Vector] = []
    for tensor in tensors:
        prefix, module, suffix = split_name(tensor.name)
        entry = targets.get(module)
        if entry is None:
            result.append(tensor)
        elif module == entry.modules[0]:
            parts = [by_name[f"{prefix}{name}{suffix}"] for name in entry.modules]
            result.append(_joined(f"{prefix}{entry.into}{suffix}", parts, entry.is_interleaved))
    return tuple(result)


def split_name(name: str) -> tuple[str, str, str]:
    """Prefix of the layer, module and suffix of a tensor: model.layers.0. + attn.q + .bias."""
    if not name.startswith("model.layers."):
        return "", name, ""
    end = name.index(".", len("model.layers.")) + 1
    prefix, module = name[:end], name[end:]
    for suffix in (".bias", ".weight"):
        if module.endswith(suffix):
            return prefix, module.removesuffix(suffix), suffix
    return prefix, module, ""


def _joined(name: str, parts: list[Matrix | Vector], is_interleaved: bool) -> Matrix | Vector:
    first = parts[0]
    if isinstance(first, Vector):
        pieces = tuple(rows for part in parts for rows in part.pieces)
        return replace(first, name=name, pieces=pieces, is_interleaved=is_interleaved)
    stacks = [part.experts for part in parts if isinstance(part, Matrix)]
    experts = tuple(sum(pieces, ()) for pieces in zip(*stacks, strict=True))
    return replace(first, name=name, experts=experts, is_interleaved=is_interleaved)


def _matrix(name: str, shape: tuple[int, int], weights: WeightFormat) -> Matrix:
    return Matrix(name, shape[1], ((Rows(f"{name}.weight", shape, 0, shape[0]),),), weights)


def _vector(name: str, source: str, shape: tuple[int, ...]) -> Vector:
    return Vector(name, (Rows(source, shape, 0, shape[0]),))


def _total_rows(pieces: tuple[Rows, ...], is_interleaved: bool) -> int:
    if is_interleaved:
        return len(pieces) * (-(-pieces[0].count // ROW_BLOCK) * ROW_BLOCK)
    return sum(piece.count for piece in pieces)


class _Layer:
    """Names of one layer on both sides."""

    def __init__(self, arch: Architecture, number: int) -> None:
        self._config = arch.config
        self._biases = arch.biases
        self._names = arch.names
        self._prefix = f"model.layers.{number}."
        self._is_sparse = arch.config.num_experts > 0 and number >= arch.config.first_k_dense

    def tensors(self) -> Iterator[Matrix | Vector]:
        config, biases = self._config, self._biases
        hidden, head_dim = config.hidden_size, config.head_dim
        query = config.num_heads * head_dim
        key_value = config.num_kv_heads * head_dim
        yield self._gain("input_norm", hidden)
        for module, rows in (("attn.q", query), ("attn.k", key_value), ("attn.v", key_value)):
            yield from self._linear(module, rows, hidden, has_bias=biases.qkv)
        if config.qk_norm:
            yield self._gain("attn.q_norm", head_dim)
            yield self._gain("attn.k_norm", head_dim)
        yield from self._linear("attn.o", hidden, query, has_bias=biases.output)
        if config.sandwich_norms:
            yield self._gain("attn.post_norm", hidden)
        yield self._gain("mlp.norm", hidden)
        if self._is_sparse:
            yield from self._mixture()
        else:
            yield from self._mlp("mlp", config.intermediate_size, has_bias=biases.mlp)
        if config.sandwich_norms:
            yield self._gain("mlp.post_norm", hidden)

    def _mixture(self) -> Iterator[Matrix | Vector]:
        config = self._config
        hidden, width = config.hidden_size, config.moe_intermediate_size
        router = self._prefix + self._names["moe.router"].name
        yield self._plain("moe.router.weight", f"{router}.weight", (config.num_experts, hidden))
        bias = f"{router}.e_score_correction_bias"
        yield self._plain("moe.router.bias", bias, (config.num_experts,))
        shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
        for module, (rows, cols) in shapes.items():
            experts = tuple(
                (self._rows(f"moe.experts.{module}", rows, (cols,), "weight", expert),)
                for expert in range(config.num_experts)
            )
            name = f"{self._prefix}moe.experts.{module}"
            yield Matrix(name, cols, experts, config.weights, is_stacked=True)
        yield from self._mlp("moe.shared", width * config.num_shared_experts, has_bias=False)

    def _mlp(self, module: str, width: int, *, has_bias: bool) -> Iterator[Matrix | Vector]:
        hidden = self._config.hidden_size
        yield from self._linear(f"{module}.gate", width, hidden, has_bias=has_bias)
        yield from self._linear(f"{module}.up", width, hidden, has_bias=has_bias)
        yield from self._linear(f"{module}.down", hidden, width, has_bias=has_bias)

    def _linear(
        self, module: str, rows: int, cols: int, *, has_bias: bool
    ) -> Iterator[Matrix | Vector]:
        weight = self._rows(module, rows, (cols,), "weight")
        yield Matrix(self._prefix + module, cols, ((weight,),), self._config.weights)
        if has_bias:
            yield Vector(f"{self._prefix}{module}.bias", (self._rows(module, rows, (), "bias"),))

    def _rows(
        self, module: str, count: int, tail: tuple[int, ...], kind: str, expert: int = 0
    ) -> Rows:
        source = self._names[module]
        name = f"{self._prefix}{source.name.format(expert)}.{kind}"
        return Rows(name, (source.num_parts * count, *tail), source.part * count, count)

    def _gain(self, module: str, size: int) -> Vector:
        source = f"{self._prefix}{self._names[module].name}.weight"
        return self._plain(f"{module}.weight", source, (size,))

    def _plain(self, name: str, source: str, shape: tuple[int, ...]) -> Vector:
        return _vector(self._prefix + name, source, shape)
