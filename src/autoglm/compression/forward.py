"""A dense layer in float32, one matrix at a time, over the hidden states of a calibration text.

Whoever runs it provides each matrix's product when its inputs are known, so that a matrix can be
chosen by what it meets, and what follows meets the chosen one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from autoglm import _core
from autoglm.compression.codes import Floats
from autoglm.modelfile.arch import ArchConfig
from autoglm.modelfile.layout import ROW_BLOCK

# Inputs [num_tokens, cols] to outputs [num_tokens, rows].
Product = Callable[[Floats], Floats]
# What multiplies with the matrix of this name, given the inputs that it meets.
Provide = Callable[[str, Floats], Product]
# A gain or a bias by the name of its tensor, None where there is none.
Lookup = Callable[[str], Floats | None]

_CHUNK_TOKENS = 2048


class LayerForward:
    """Runs layers on hidden states [num_sequences, num_tokens, hidden_size], in place."""

    def __init__(self, config: ArchConfig, num_tokens: int) -> None:
        self._config = config
        angles = np.outer(
            np.arange(num_tokens, dtype=np.float32), np.array(config.inv_freq, np.float32)
        )
        self._cos = (np.cos(angles) * config.rope_scale).astype(np.float32)[:, None]
        self._sin = (np.sin(angles) * config.rope_scale).astype(np.float32)[:, None]

    def run(self, prefix: str, hidden: Floats, vector: Lookup, provide: Provide) -> None:
        """Add to `hidden` what the layer called `prefix` adds."""
        tokens = hidden.reshape(-1, hidden.shape[-1])
        eps = self._config.rms_norm_eps

        def linear(module: str, inputs: Floats) -> Floats:
            return with_bias(module, provide(f"{prefix}{module}", inputs)(inputs))

        def with_bias(module: str, product: Floats) -> Floats:
            bias = vector(f"{prefix}{module}.bias")
            return product if bias is None else product + bias

        def after_norm(norm: str, module: str) -> tuple[Floats, Product]:
            """The inputs of a matrix and its product; the matrix may change the norm's gain."""
            product = provide(f"{prefix}{module}", self._normed(tokens, vector(prefix + norm)))
            return self._normed(tokens, vector(prefix + norm)), product

        def add(module: str, outputs: Floats) -> None:
            gain = vector(f"{prefix}{module}.post_norm.weight")
            tokens[...] += outputs if gain is None else rms_norm(outputs, gain, eps)

        inputs, product = after_norm("input_norm.weight", "attn.qkv")
        qkv = with_bias("attn.qkv", product(inputs))
        mixed = self._attention(qkv.reshape(*hidden.shape[:2], -1), prefix, vector)
        del qkv
        add("attn", linear("attn.o", mixed))
        del mixed
        inputs, product = after_norm("mlp.norm.weight", "mlp.gate_up")
        inner = _gated(inputs, product, vector(f"{prefix}mlp.gate_up.bias"))
        del inputs, product
        add("mlp", linear("mlp.down", inner[:, : self._config.intermediate_size]))

    def _normed(self, tokens: Floats, gain: Floats | None) -> Floats:
        ones = np.ones(tokens.shape[1], np.float32)
        return rms_norm(tokens, ones if gain is None else gain, self._config.rms_norm_eps)

    def _attention(self, qkv: Floats, prefix: str, vector: Lookup) -> Floats:
        """The mixed values of all sequences, [num_tokens of all, num_heads * head_dim]."""
        config = self._config
        mixed = np.empty((*qkv.shape[:2], config.num_heads * config.head_dim), np.float32)
        q_gain, k_gain = (vector(f"{prefix}attn.{name}_norm.weight") for name in "qk")
        for sequence, out in zip(qkv, mixed, strict=True):
            heads = sequence.reshape(len(sequence), -1, config.head_dim)
            q, k, v = np.split(heads, [config.num_heads, config.num_heads + config.num_kv_heads], 1)
            if q_gain is not None and k_gain is not None:
                q = rms_norm(q, q_gain, config.rms_norm_eps)
                k = rms_norm(k, k_gain, config.rms_norm_eps)
            out[...] = _core.attention(
                self._rope(q), self._rope(k), np.ascontiguousarray(v), "fp32"
            )
        return mixed.reshape(-1, mixed.shape[-1])

    def _rope(self, heads: Floats) -> Floats:
        config = self._config
        half = config.rotary_dim // 2
        if config.rope_interleaved:
            first, second = slice(0, config.rotary_dim, 2), slice(1, config.rotary_dim, 2)
        else:
            first, second = slice(0, half), slice(half, config.rotary_dim)
        out = heads.copy()
        a, b = heads[..., first], heads[..., second]
        cos, sin = self._cos[: len(heads)], self._sin[: len(heads)]
        out[..., first] = a * cos - b * sin
        out[..., second] = b * cos + a * sin
        return out


def rms_norm(x: Floats, gain: Floats, eps: float) -> Floats:
    """x / sqrt(mean(x^2) + eps) * gain over the last axis."""
    square = np.einsum("...i,...i->...", x, x) / np.float32(x.shape[-1])
    normed: Floats = x * (1.0 / np.sqrt(square + np.float32(eps)))[..., None] * gain
    return normed.astype(np.float32, copy=False)


def chunks(tokens: Floats) -> Iterator[Floats]:
    """The tokens in pieces of bounded size."""
    for start in range(0, len(tokens), _CHUNK_TOKENS):
        yield tokens[start : start + _CHUNK_TOKENS]


def second_moments(inputs: Floats) -> Floats:
    """The sum of x^T x over inputs x, [cols, cols]."""
    total = np.zeros((inputs.shape[1], inputs.shape[1]), np.float32)
    for chunk in chunks(inputs):
        total += chunk.T @ chunk
    return total


def product_with(weights: Floats) -> Product:
    """That of a matrix in float32."""
    return lambda inputs: inputs @ weights.T


def _gated(inputs: Floats, gate_up: Product, bias: Floats | None) -> Floats:
    """silu(gate) * up, whose rows alternate in blocks of 16."""
    inner = np.empty((0, 0), np.float32)
    start = 0
    for chunk in chunks(inputs):
        both = gate_up(chunk)
        if bias is not None:
            both += bias
        if not inner.size:
            inner = np.empty((len(inputs), both.shape[1] // 2), np.float32)
        blocks = both.reshape(len(chunk), -1, 2, ROW_BLOCK)
        gate, up = blocks[:, :, 0], blocks[:, :, 1]
        with np.errstate(over="ignore"):
            inner[start : start + len(chunk)] = (gate / (1.0 + np.exp(-gate)) * up).reshape(
                len(chunk), -1
            )
        start += len(chunk)
    return inner
