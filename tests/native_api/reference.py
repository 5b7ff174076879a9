"""The forward pass in float64 NumPy, written for clarity: the oracle of the native graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tests.native_api.tiny_model import TinyModel

Array = NDArray[np.float64]
EPS = 1e-5
PAGE = 64


def logits(model: TinyModel, ids: Sequence[int], *, window: int = 0, sink: int = 0) -> Array:
    """Logits of every position, [len(ids), vocab_size]; `window` and `sink` are whole pages."""
    s = model.shape
    hidden = model.arrays["model.embed_tokens"][list(ids)].astype(np.float64)
    for layer in range(s.num_layers):
        prefix = f"model.layers.{layer}."
        hidden = hidden + _attention(
            model, prefix, hidden, _hidden_keys(len(ids), window, sink), sink
        )
        hidden = hidden + _mlp(model, prefix, hidden, layer)
    hidden = _norm(model, "model.norm", hidden)
    head = "model.embed_tokens" if s.tie_word_embeddings else "lm_head"
    return hidden @ model.arrays[head].astype(np.float64).T


def _norm(model: TinyModel, name: str, x: Array) -> Array:
    scale = np.sqrt((x * x).mean(-1, keepdims=True) + EPS)
    return x / scale * model.arrays[name + ".weight"]


def _linear(model: TinyModel, name: str, x: Array) -> Array:
    return x @ model.arrays[name].astype(np.float64).T + model.arrays.get(name + ".bias", 0.0)


def _swiglu(gate: Array, up: Array) -> Array:
    return gate / (1.0 + np.exp(-gate)) * up


def _gated(x: Array, gate_up: Array, bias: Array | None = None) -> Array:
    gate, up = (x @ rows.T for rows in gate_up.astype(np.float64))
    return _swiglu(gate, up) if bias is None else _swiglu(gate + bias[0], up + bias[1])


def _hidden_keys(num_tokens: int, window: int, sink: int) -> NDArray[np.int64]:
    """How many keys after the sinks each token does not see."""
    page_starts = np.arange(num_tokens) // PAGE * PAGE
    return np.maximum(0, page_starts - window - sink) if window else np.zeros(num_tokens, np.int64)


def _attention(
    model: TinyModel, prefix: str, hidden: Array, num_hidden: NDArray[np.int64], sink: int
) -> Array:
    s = model.shape
    num_tokens = len(hidden)
    qkv = _linear(model, prefix + "attn.qkv", _norm(model, prefix + "input_norm", hidden))
    heads = qkv.reshape(num_tokens, -1, s.head_dim)
    q, k, v = np.split(heads, [s.num_heads, s.num_heads + s.num_kv_heads], axis=1)
    if s.qk_norm:
        q = _norm(model, prefix + "attn.q_norm", q)
        k = _norm(model, prefix + "attn.k_norm", k)
    group = s.num_heads // s.num_kv_heads
    positions = np.arange(num_tokens)
    sink_q = _rope(model, q, positions - num_hidden)
    q, k = _rope(model, q, positions), _rope(model, k, positions).repeat(group, axis=1)
    scores = np.einsum("thd,shd->hts", q, k) / math.sqrt(s.head_dim)
    scores[..., :sink] = np.einsum("thd,shd->hts", sink_q, k[:sink]) / math.sqrt(s.head_dim)
    is_gone = (positions >= sink) & (positions < sink + num_hidden[:, None])
    scores[:, is_gone | (positions > positions[:, None])] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("hts,shd->thd", weights, v.repeat(group, axis=1))
    out = _linear(model, prefix + "attn.o", mixed.reshape(num_tokens, -1))
    return _norm(model, prefix + "attn.post_norm", out) if s.sandwich_norms else out


def _rope(model: TinyModel, heads: Array, positions: NDArray[np.int64]) -> Array:
    """Angles in float32 up to the model's longest sequence, as its makers compute them."""
    s = model.shape
    inv_freq = np.float32(model.config.inv_freq)
    exact = positions[:, None] * inv_freq.astype(np.float64)
    rounded = (positions[:, None].astype(np.float32) * inv_freq).astype(np.float64)
    angles = np.where(positions[:, None] < s.max_position, rounded, exact)[:, None, :]
    cos = np.cos(angles) * s.rope_scale
    sin = np.sin(angles) * s.rope_scale
    half = s.rotary_dim // 2
    out = heads.copy()
    if s.rope_interleaved:
        first, second = slice(0, s.rotary_dim, 2), slice(1, s.rotary_dim, 2)
    else:
        first, second = slice(0, half), slice(half, s.rotary_dim)
    a, b = heads[..., first], heads[..., second]
    out[..., first] = a * cos - b * sin
    out[..., second] = b * cos + a * sin
    return out


def _mlp(model: TinyModel, prefix: str, hidden: Array, layer: int) -> Array:
    s = model.shape
    x = _norm(model, prefix + "mlp.norm", hidden)
    if s.num_experts and layer >= s.first_k_dense:
        return _experts(model, prefix + "moe.", x)
    name = prefix + "mlp.gate_up"
    inner = _gated(x, model.arrays[name], model.arrays.get(name + ".bias"))
    out = _linear(model, prefix + "mlp.down", inner)
    return _norm(model, prefix + "mlp.post_norm", out) if s.sandwich_norms else out


def _experts(model: TinyModel, prefix: str, x: Array) -> Array:
    s = model.shape
    scores = 1.0 / (1.0 + np.exp(-_linear(model, prefix + "router.weight", x)))
    out = np.zeros_like(x)
    for t, token_scores in enumerate(scores):
        chosen = _choose(model, prefix, token_scores)
        total = token_scores[chosen].sum() + 1e-20
        for e in chosen:
            inner = _gated(x[t], model.arrays[prefix + "experts.gate_up"][e])
            down = model.arrays[prefix + "experts.down"][e].astype(np.float64)
            out[t] += token_scores[e] / total * s.routed_scaling_factor * (down @ inner)
    if s.num_shared_experts:
        inner = _gated(x, model.arrays[prefix + "shared.gate_up"])
        out += _linear(model, prefix + "shared.down", inner)
    return out


def _choose(model: TinyModel, prefix: str, scores: Array) -> NDArray[np.intp]:
    s = model.shape
    biased = scores + model.arrays[prefix + "router.bias"]
    groups = biased.reshape(s.n_group, -1)
    strength = np.sort(groups, axis=1)[:, -2:].sum(1)
    kept = np.argsort(-strength, kind="stable")[: s.topk_group]
    masked = np.zeros_like(groups)
    masked[kept] = groups[kept]
    return np.argsort(-masked.reshape(-1), kind="stable")[: s.num_experts_per_tok]
