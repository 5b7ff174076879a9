# mypy: allow-subclassing-any
# torch is not installed where the gates run, so its classes are Any to mypy.
"""A dense model in torch over the tensors of its bundle: the steps of compression/forward.py."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoglm.compression.codes import Floats
from autoglm.modelfile.arch import ArchConfig
from autoglm.modelfile.layout import EMBEDDING, FINAL_NORM, HEAD, ROW_BLOCK


class Network(nn.Module):
    """Token ids [batch, tokens] to logits; parameters have the names of the bundle's tensors."""

    def __init__(self, config: ArchConfig, tensors: Mapping[str, Floats]) -> None:
        super().__init__()
        self._config = config
        self._names = {name: name.replace(".", "/") for name in tensors}
        for name, values in tensors.items():
            self.register_parameter(self._names[name], nn.Parameter(torch.from_numpy(values)))
        inv_freq = torch.tensor(config.inv_freq, dtype=torch.float32)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def named(self) -> dict[str, Tensor]:
        """The parameters under the names of the bundle's tensors."""
        own = dict(self.named_parameters())
        return {name: own[stored] for name, stored in self._names.items()}

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, tokens, vocab]."""
        return F.linear(self.hidden(ids), self.head())

    def head(self) -> Tensor:
        """[vocab, size], by which the last hidden states become logits."""
        return self._tensor(EMBEDDING if self._config.tie_word_embeddings else HEAD)

    def hidden(self, ids: Tensor) -> Tensor:
        """The last hidden states [batch, tokens, size]."""
        x = F.embedding(ids, self._tensor(EMBEDDING))
        angles = torch.outer(torch.arange(ids.shape[1]).float(), self.inv_freq)
        scale = self._config.rope_scale
        cos, sin = (angles.cos() * scale)[:, None], (angles.sin() * scale)[:, None]
        for layer in range(self._config.num_layers):
            x = self._layer(f"model.layers.{layer}.", x, cos, sin)
        return self._normed(x, FINAL_NORM)

    def _layer(self, prefix: str, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        qkv = self._linear(f"{prefix}attn.qkv", self._normed(x, f"{prefix}input_norm.weight"))
        mixed = self._attention(prefix, qkv, cos, sin)
        x = x + self._after(f"{prefix}attn", self._linear(f"{prefix}attn.o", mixed))
        both = self._linear(f"{prefix}mlp.gate_up", self._normed(x, f"{prefix}mlp.norm.weight"))
        gate, up = both.unflatten(-1, (-1, 2, ROW_BLOCK)).unbind(-2)
        inner = (F.silu(gate) * up).flatten(-2)[..., : self._config.intermediate_size]
        return x + self._after(f"{prefix}mlp", self._linear(f"{prefix}mlp.down", inner))

    def _attention(self, prefix: str, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        config = self._config
        sizes = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
        q, k, v = qkv.unflatten(-1, (-1, config.head_dim)).split(sizes, dim=-2)
        if config.qk_norm:
            q = self._normed(q, f"{prefix}attn.q_norm.weight")
            k = self._normed(k, f"{prefix}attn.k_norm.weight")
        q, k = (self._rotated(heads, cos, sin).transpose(1, 2) for heads in (q, k))
        mixed = F.scaled_dot_product_attention(
            q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        return mixed.transpose(1, 2).flatten(-2)

    def _rotated(self, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        config = self._config
        turned, rest = heads[..., : config.rotary_dim].float(), heads[..., config.rotary_dim :]
        if config.rope_interleaved:
            a, b = turned.unflatten(-1, (-1, 2)).unbind(-1)
        else:
            a, b = turned.chunk(2, dim=-1)
        parts = (a * cos - b * sin, b * cos + a * sin)
        joined = (
            torch.stack(parts, -1).flatten(-2) if config.rope_interleaved else torch.cat(parts, -1)
        )
        return torch.cat((joined.to(heads.dtype), rest), -1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        bias = self._tensor(f"{name}.bias") if f"{name}.bias" in self._names else None
        return F.linear(x, self._tensor(name), bias)

    def _after(self, module: str, outputs: Tensor) -> Tensor:
        name = f"{module}.post_norm.weight"
        return self._normed(outputs, name) if name in self._names else outputs

    def _normed(self, x: Tensor, gain: str) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._config.rms_norm_eps)
        return (wide * scale * self._tensor(gain)).to(x.dtype)

    def _tensor(self, name: str) -> Tensor:
        return self.get_parameter(self._names[name])
