"""The tensors of a bundle for one architecture, and the checkpoint rows each is made of.

Linear layers are packed matrices; q, k and v become one, gate and up rows alternate in blocks of 16
(each padded to whole blocks), experts are stacked. Norm gains, biases and routers are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoglm import _core
from autoglm.modelfile.arch import Architecture, WeightFormat
from autoglm.modelfile.safetensors_writer import TensorSpec

ROW_BLOCK = 16


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

    `is_interleaved` matrices have two pieces, gate and up, whose rows alternate.
    """

    name: str
    cols: int
    experts: tuple[tuple[Rows, ...], ...]
    is_interleaved: bool = False
    is_stacked: bool = False

    @property
    def rows(self) -> int:
        """Rows of one packed matrix, with the padding between gate and up."""
        return _total_rows(self.experts[0], self.is_interleaved)

    def parts(self, weights: WeightFormat) -> list[TensorSpec]:
        """The tensors that store it."""
        stack = (len(self.experts),) if self.is_stacked else ()
        return [
            TensorSpec(f"{self.name}.{suffix}", dtype, (*stack, *shape))
            for suffix, dtype, shape in _core.packed_shapes(weights, self.rows, self.cols)
        ]


@dataclass(frozen=True, slots=True)
class Vector:
    """A float32 tensor; `shape` may have a second dimension (routers)."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Rows, ...]
    is_interleaved: bool = False

    def parts(self, weights: WeightFormat) -> list[TensorSpec]:
        """Itself, whatever the weight format."""
        return [TensorSpec(self.name, "F32", self.shape)]


def bundle_tensors(arch: Architecture) -> Iterator[Matrix | Vector]:
    """All tensors in the order of execution, which is their order in the file."""
    config = arch.config
    vocabulary = (config.vocab_size, config.hidden_size)
    yield _matrix("model.embed_tokens", "model.embed_tokens.weight", vocabulary)
    for layer in range(config.num_layers):
        yield from _Layer(arch, layer).tensors()
    yield _vector("model.norm.weight", "model.norm.weight", (config.hidden_size,))
    if not config.tie_word_embeddings:
        yield _matrix("lm_head", "lm_head.weight", vocabulary)


def _matrix(name: str, source: str, shape: tuple[int, int]) -> Matrix:
    return Matrix(name, shape[1], ((Rows(source, shape, 0, shape[0]),),))


def _vector(name: str, source: str, shape: tuple[int, ...]) -> Vector:
    return Vector(name, shape, (Rows(source, shape, 0, shape[0]),))


def _total_rows(pieces: tuple[Rows, ...], is_interleaved: bool) -> int:
    if is_interleaved:
        return len(pieces) * (-(-pieces[0].count // ROW_BLOCK) * ROW_BLOCK)
    return sum(piece.count for piece in pieces)


class _Layer:
    """Names of one layer on both sides."""

    def __init__(self, arch: Architecture, number: int) -> None:
        self._arch = arch
        self._config = arch.config
        self._prefix = f"model.layers.{number}."
        self._is_sparse = arch.config.num_experts > 0 and number >= arch.config.first_k_dense

    def tensors(self) -> Iterator[Matrix | Vector]:
        config, biases = self._config, self._arch.biases
        hidden, head_dim = config.hidden_size, config.head_dim
        query = config.num_heads * head_dim
        key_value = config.num_kv_heads * head_dim
        yield self._gain("input_norm", hidden)
        yield from self._linear("attn.qkv", (query, key_value, key_value), hidden, biases.qkv)
        if config.qk_norm:
            yield self._gain("attn.q_norm", head_dim)
            yield self._gain("attn.k_norm", head_dim)
        yield from self._linear("attn.o", (hidden,), query, biases.output)
        if config.sandwich_norms:
            yield self._gain("attn.post_norm", hidden)
        yield self._gain("mlp.norm", hidden)
        if self._is_sparse:
            yield from self._experts()
        else:
            yield from self._gate_up("mlp.gate_up", config.intermediate_size, biases.mlp)
            yield from self._linear("mlp.down", (hidden,), config.intermediate_size, biases.mlp)
        if config.sandwich_norms:
            yield self._gain("mlp.post_norm", hidden)

    def _experts(self) -> Iterator[Matrix | Vector]:
        config = self._config
        hidden, width = config.hidden_size, config.moe_intermediate_size
        router = self._sources("moe.router")[0]
        yield self._plain("moe.router.weight", f"{router}.weight", (config.num_experts, hidden))
        bias = f"{router}.e_score_correction_bias"
        yield self._plain("moe.router.bias", bias, (config.num_experts,))
        numbers = range(config.num_experts)
        yield Matrix(
            f"{self._prefix}moe.experts.gate_up",
            hidden,
            tuple(
                self._gate_up_rows("moe.experts.gate_up", width, (hidden,), "weight", number)
                for number in numbers
            ),
            is_interleaved=True,
            is_stacked=True,
        )
        yield Matrix(
            f"{self._prefix}moe.experts.down",
            width,
            tuple(
                self._rows("moe.experts.down", (hidden,), (width,), "weight", number)
                for number in numbers
            ),
            is_stacked=True,
        )
        shared = width * config.num_shared_experts
        yield from self._gate_up("moe.shared.gate_up", shared, has_bias=False)
        yield from self._linear("moe.shared.down", (hidden,), shared, has_bias=False)

    def _linear(
        self, module: str, counts: tuple[int, ...], cols: int, has_bias: bool
    ) -> Iterator[Matrix | Vector]:
        rows = self._rows(module, counts, (cols,), "weight")
        yield Matrix(self._prefix + module, cols, (rows,))
        if has_bias:
            pieces = self._rows(module, counts, (), "bias")
            yield Vector(f"{self._prefix}{module}.bias", (sum(counts),), pieces)

    def _gate_up(self, module: str, width: int, has_bias: bool) -> Iterator[Matrix | Vector]:
        hidden = self._config.hidden_size
        rows = self._gate_up_rows(module, width, (hidden,), "weight")
        yield Matrix(self._prefix + module, hidden, (rows,), is_interleaved=True)
        if has_bias:
            pieces = self._gate_up_rows(module, width, (), "bias")
            shape = (_total_rows(pieces, is_interleaved=True),)
            yield Vector(f"{self._prefix}{module}.bias", shape, pieces, is_interleaved=True)

    def _gate_up_rows(
        self, module: str, width: int, tail: tuple[int, ...], kind: str, expert: int = 0
    ) -> tuple[Rows, ...]:
        sources = self._sources(module, expert)
        if len(sources) == 2:
            return self._rows(module, (width, width), tail, kind, expert)
        source, shape = f"{sources[0]}.{kind}", (2 * width, *tail)
        return Rows(source, shape, 0, width), Rows(source, shape, width, width)

    def _rows(
        self,
        module: str,
        counts: tuple[int, ...],
        tail: tuple[int, ...],
        kind: str,
        expert: int = 0,
    ) -> tuple[Rows, ...]:
        sources = self._sources(module, expert)
        return tuple(
            Rows(f"{source}.{kind}", (count, *tail), 0, count)
            for source, count in zip(sources, counts, strict=True)
        )

    def _gain(self, module: str, size: int) -> Vector:
        return self._plain(f"{module}.weight", f"{self._sources(module)[0]}.weight", (size,))

    def _plain(self, name: str, source: str, shape: tuple[int, ...]) -> Vector:
        return _vector(self._prefix + name, source, shape)

    def _sources(self, module: str, expert: int = 0) -> tuple[str, ...]:
        return tuple(self._prefix + source.format(expert) for source in self._arch.names[module])
