# mypy: allow-subclassing-any
# torch is not installed where the gates run, so its classes are Any to mypy.
"""GLM causal language model in plain torch: the graph of transformers' `GlmForCausalLM`.

RMSNorm, grouped-query attention with interleaved rotary embedding, fused gate-and-up SwiGLU,
tied embeddings. Training uses `loss`, which never keeps the logits of a whole batch.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LOSS_CHUNK_TOKENS = {"cpu": 1024, "cuda": 8192}

ChunkLoss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class LiteConfig:
    """Shape of the network; `rotary_dim` leading dimensions of each head are rotated."""

    vocab_size: int = 16_384
    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    num_kv_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 1280
    rotary_dim: int = 32
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    max_position: int = 2048

    def to_hf(self) -> dict[str, Any]:
        """The same shape as a transformers `GlmConfig` dictionary."""
        return {
            "architectures": ["GlmForCausalLM"],
            "model_type": "glm",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "partial_rotary_factor": self.rotary_dim / self.head_dim,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for checkpoints."""
        return asdict(self)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


def rotary_tables(config: LiteConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and frequency, each [length, rotary_dim / 2]."""
    exponent = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    angles = torch.outer(torch.arange(length).float(), config.rope_theta**-exponent)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs (2i, 2i+1) of the leading dimensions; x is [B, T, H, D]."""
    half = cos.shape[-1]
    pairs = x[..., : 2 * half].float().unflatten(-1, (half, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[:, None, :], sin[:, None, :]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned.to(x.dtype), x[..., 2 * half :]), dim=-1)


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        self.config = config
        q_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.sizes = (q_size, kv_size, kv_size)
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.qkv = nn.Linear(config.hidden_size, q_size + 2 * kv_size, bias=False)
        self.o = nn.Linear(q_size, config.hidden_size, bias=False)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x is [batch, tokens, hidden]."""
        q, k, v = (
            part.unflatten(-1, (-1, self.config.head_dim))
            for part in self.qkv(self.input_norm(x)).split(self.sizes, dim=-1)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        x = x + self.o(mixed.transpose(1, 2).flatten(-2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class LiteModel(nn.Module):
    """Token ids to hidden states, logits or loss; the output matrix is the embedding."""

    def __init__(self, config: LiteConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        cos, sin = rotary_tables(config, config.max_position)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator | None) -> None:
        residual = 1.0 / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                fan_in = self.config.hidden_size if name == "embed.weight" else parameter.shape[1]
                std = 1.0 / math.sqrt(fan_in)
                if name.endswith((".o.weight", ".down.weight")):
                    std *= residual
                nn.init.normal_(parameter, 0.0, std, generator)

    def hidden(self, ids: Tensor) -> Tensor:
        """Final normed states [batch, tokens, hidden] of ids [batch, tokens]."""
        x = self.embed(ids)
        if torch.is_autocast_enabled(ids.device.type):
            x = x.to(torch.get_autocast_dtype(ids.device.type))
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, tokens, vocab]; for tests and sampling."""
        return F.linear(self.hidden(ids), self.embed.weight)

    def num_parameters(self) -> int:
        """Parameters, the tied matrix counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of token losses and its gradients, a chunk of rows at a time, in one pass.

    Rows whose target is -1 cost nothing. The logits of a chunk turn into their own gradient
    before the next chunk is computed, so neither the logits nor the probabilities of the batch
    are ever stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_coefficient: float,
        loss_of_chunk: ChunkLoss,
    ) -> Tensor:
        counted = (targets >= 0).nonzero().squeeze(1)
        # Whole chunks only: a compiled loss then sees one shape.
        size = _LOSS_CHUNK_TOKENS[states.device.type]
        padding = -counted.numel() % size
        picked = F.pad(states[counted], (0, 0, 0, padding))
        wanted = F.pad(targets[counted], (0, padding), value=-1)
        grad_picked = torch.empty_like(picked)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        low = weight.to(states.dtype)
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        for start in range(0, wanted.numel(), size):
            rows = slice(start, start + size)
            loss, grad = loss_of_chunk(picked[rows] @ low.t(), wanted[rows], z_coefficient)
            total += loss
            torch.mm(grad, low, out=grad_picked[rows])
            grad_weight += grad.t() @ picked[rows]
        grad_states = torch.zeros_like(states)
        grad_states[counted] = grad_picked[: counted.numel()]
        ctx.save_for_backward(grad_states, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight = ctx.saved_tensors
        return grad_states * grad_output, grad_weight * grad_output, None, None, None


def chunk_loss(logits: Tensor, targets: Tensor, z_coefficient: float) -> tuple[Tensor, Tensor]:
    """Summed loss of [rows, vocab] logits and the gradient for them; target -1 counts nothing."""
    wide = logits.float()
    counted = (targets >= 0).float()
    index = targets.clamp(min=0)[:, None]
    log_sum = torch.logsumexp(wide, dim=-1)
    picked = wide.gather(1, index).squeeze(1)
    loss = ((log_sum - picked + z_coefficient * log_sum.square()) * counted).sum()
    scale = (1.0 + 2.0 * z_coefficient * log_sum) * counted
    grad = torch.exp(wide - log_sum[:, None]) * scale[:, None]
    columns = torch.arange(wide.shape[1], device=wide.device)
    grad = torch.where(columns[None, :] == index, grad - counted[:, None], grad)
    return loss, grad.to(logits.dtype)
