"""Random models of a few thousand weights, as files the native module maps and as arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoglm import _core

Floats = NDArray[np.float32]
TensorRow = tuple[str, str, list[int], int, int, int]
ALIGNMENT = 64
BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The fields of `_core.ModelConfig` that the tests vary; odd sizes on purpose."""

    weights: str = "fp32"
    vocab_size: int = 67
    hidden_size: int = 48
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 10
    intermediate_size: int = 50
    rotary_dim: int = 6
    rope_interleaved: bool = True
    rope_scale: float = 1.0
    sandwich_norms: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False
    has_bias: bool = False
    max_position: int = 512
    num_experts: int = 0
    num_experts_per_tok: int = 2
    num_shared_experts: int = 1
    moe_intermediate_size: int = 18
    first_k_dense: int = 1
    n_group: int = 2
    topk_group: int = 1
    routed_scaling_factor: float = 1.5


@dataclass(frozen=True, slots=True)
class TinyModel:
    """`arrays` holds the dequantised weights, experts stacked, gate and up rows apart."""

    shape: Shape
    config: _core.ModelConfig
    path: Path
    table: list[TensorRow]
    arrays: dict[str, Floats]

    def load(self) -> _core.Model:
        """Map the file."""
        return _core.Model(self.config, [str(self.path)], self.table)

    def executor(self, **plan: int | str) -> _core.Executor:
        """An executor of its own with the given fields of `_core.Plan`."""
        fields = _core.Plan()
        for name, value in plan.items():
            setattr(fields, name, value)
        return _core.Executor(self.load(), fields)

    def session(self, **plan: int | str) -> _core.Session:
        """A session on an executor of its own."""
        return _core.Session(self.executor(**plan))


def native_config(shape: Shape) -> _core.ModelConfig:
    """The native configuration with rope frequencies of theta 10000."""
    config = _core.ModelConfig()
    for name in Shape.__slots__:
        if name != "has_bias":
            setattr(config, name, getattr(shape, name))
    half = shape.rotary_dim // 2
    config.inv_freq = [10000.0 ** (-i / max(half, 1)) for i in range(half)]
    return config


def build(path: Path, *, seed: int = 0, **changes: int | float | bool | str) -> TinyModel:
    """Write a random model to `path`."""
    shape = replace(Shape(), **changes)
    writer = _Writer(shape, np.random.default_rng(seed))
    writer.write_model()
    path.write_bytes(bytes(writer.data))
    return TinyModel(shape, native_config(shape), path, writer.table, writer.arrays)


class _Writer:
    """Appends tensors in the layout of the bundle."""

    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
        self.shape = shape
        self.rng = rng
        self.data = bytearray()
        self.table: list[TensorRow] = []
        self.arrays: dict[str, Floats] = {}

    def write_model(self) -> None:
        s = self.shape
        self.linear("model.embed_tokens", s.vocab_size, s.hidden_size, scale=1.0)
        for layer in range(s.num_layers):
            self.layer(layer)
        self.norm("model.norm", s.hidden_size)
        if not s.tie_word_embeddings:
            self.linear("lm_head", s.vocab_size, s.hidden_size)

    def layer(self, layer: int) -> None:
        s = self.shape
        prefix = f"model.layers.{layer}."
        qkv_rows = (s.num_heads + 2 * s.num_kv_heads) * s.head_dim
        self.norm(prefix + "input_norm", s.hidden_size)
        self.linear(prefix + "attn.qkv", qkv_rows, s.hidden_size, has_bias=s.has_bias)
        if s.qk_norm:
            self.norm(prefix + "attn.q_norm", s.head_dim)
            self.norm(prefix + "attn.k_norm", s.head_dim)
        self.linear(prefix + "attn.o", s.hidden_size, s.num_heads * s.head_dim, has_bias=s.has_bias)
        self.norm(prefix + "mlp.norm", s.hidden_size)
        if s.sandwich_norms:
            self.norm(prefix + "attn.post_norm", s.hidden_size)
            self.norm(prefix + "mlp.post_norm", s.hidden_size)
        if s.num_experts and layer >= s.first_k_dense:
            self.moe(prefix + "moe.")
        else:
            self.gate_up(prefix + "mlp.gate_up", s.intermediate_size, has_bias=s.has_bias)
            self.linear(
                prefix + "mlp.down", s.hidden_size, s.intermediate_size, has_bias=s.has_bias
            )

    def moe(self, prefix: str) -> None:
        s = self.shape
        self.floats(prefix + "router.weight", self.random(s.num_experts, s.hidden_size))
        self.floats(prefix + "router.bias", 0.1 * self.random(s.num_experts))
        self.gate_up(prefix + "experts.gate_up", s.moe_intermediate_size, count=s.num_experts)
        self.linear(
            prefix + "experts.down", s.hidden_size, s.moe_intermediate_size, count=s.num_experts
        )
        if s.num_shared_experts:
            width = s.moe_intermediate_size * s.num_shared_experts
            self.gate_up(prefix + "shared.gate_up", width)
            self.linear(prefix + "shared.down", s.hidden_size, width)

    def random(self, *dims: int) -> Floats:
        return self.rng.standard_normal(dims, dtype=np.float32)

    def norm(self, name: str, size: int) -> None:
        self.floats(name + ".weight", 1.0 + 0.1 * self.random(size))

    def linear(
        self,
        name: str,
        rows: int,
        cols: int,
        *,
        scale: float | None = None,
        has_bias: bool = False,
        count: int = 0,
    ) -> None:
        sigma = scale if scale is not None else 1.0 / math.sqrt(cols)
        stack = np.float32(sigma) * self.random(max(count, 1), rows, cols)
        self.arrays[name] = self.pack(name, stack, count)
        if has_bias:
            self.floats(name + ".bias", 0.1 * self.random(rows))

    def gate_up(self, name: str, width: int, *, has_bias: bool = False, count: int = 0) -> None:
        """Interleave gate and up rows in blocks of 16, each padded with zeros."""
        cols = self.shape.hidden_size
        padded = -(-width // BLOCK) * BLOCK
        rows = np.zeros((max(count, 1), 2, padded, cols), np.float32)
        rows[:, :, :width] = self.random(max(count, 1), 2, width, cols) / math.sqrt(cols)
        blocks = rows.reshape(-1, 2, padded // BLOCK, BLOCK, cols).swapaxes(1, 2)
        values = self.pack(name, blocks.reshape(-1, 2 * padded, cols), count)
        split = values.reshape(-1, padded // BLOCK, 2, BLOCK, cols).swapaxes(1, 2)
        split = split.reshape(-1, 2, padded, cols)[:, :, :width]
        self.arrays[name] = split if count else split[0]
        if has_bias:
            bias = np.zeros((2, padded), np.float32)
            bias[:, :width] = 0.1 * self.random(2, width)
            self.append(
                name + ".bias", "F32", bias.reshape(2, -1, BLOCK).swapaxes(0, 1).reshape(-1)
            )
            self.arrays[name + ".bias"] = bias[:, :width]

    def pack(self, name: str, stack: Floats, count: int) -> Floats:
        """Append the packed parts and return what they stand for."""
        weights = self.shape.weights
        rows, cols = stack.shape[1:]
        packed = [_core.pack_rows(weights, "F32", m.tobytes(), rows, cols) for m in stack]
        for i, (suffix, dtype, dims) in enumerate(_core.packed_shapes(weights, rows, cols)):
            data = b"".join(parts[i] for parts in packed)
            self.append(f"{name}.{suffix}", dtype, data, [count, *dims] if count else dims)
        values = np.stack(
            [
                np.frombuffer(_core.dequantize(weights, parts, rows, cols), np.float32)
                for parts in packed
            ]
        ).reshape(stack.shape)
        return values if count else values[0]

    def floats(self, name: str, values: Floats) -> None:
        self.arrays[name] = values
        self.append(name, "F32", values)

    def append(
        self, name: str, dtype: str, values: Floats | bytes, shape: list[int] | None = None
    ) -> None:
        data = values if isinstance(values, bytes) else values.astype(np.float32).tobytes()
        dims = shape if shape is not None else list(np.shape(values))
        self.data += bytes(-len(self.data) % ALIGNMENT)
        self.table.append((name, dtype, list(dims), 0, len(self.data), len(data)))
        self.data += data
