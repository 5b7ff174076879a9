"""What describes an architecture: numbers for the graph, biases, source names of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from autoglm.errors import ModelConfigError, UnsupportedModelError
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.rope import parse_rope

WeightFormat = Literal["fp32", "bf16", "int8", "int4", "int3", "sparse8", "half8", "block8"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
# With scales of groups of columns.
GROUPED_FORMATS: tuple[WeightFormat, ...] = ("int4", "int3")
SPARSE_FORMATS: tuple[WeightFormat, ...] = ("sparse8", "half8")
# Without their zeros: kernels expand a block of rows in the scratch of a thread, which is bounded.
PRUNED_FORMATS: tuple[WeightFormat, ...] = (*SPARSE_FORMATS, "block8")
MOST_PRUNED_COLS = 16_384
INTEGER_FORMATS: tuple[WeightFormat, ...] = ("int8", *GROUPED_FORMATS, *PRUNED_FORMATS)

MAX_LAYERS = 512
MAX_HEAD_DIM = 512
MAX_HEADS = 1024
MAX_WIDTH = 1 << 17
MAX_VOCAB = 1 << 22
MAX_EXPERTS = 1024
MAX_SHARED_EXPERTS = 64
MAX_POSITION = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchConfig:
    """Field for field the native `_core.ModelConfig`."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rotary_dim: int
    rope_interleaved: bool
    inv_freq: tuple[float, ...]
    rope_scale: float
    tie_word_embeddings: bool
    max_position: int
    weights: WeightFormat
    sandwich_norms: bool = False
    qk_norm: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    num_shared_experts: int = 0
    moe_intermediate_size: int = 0
    first_k_dense: int = 0
    n_group: int = 0
    topk_group: int = 0
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = False


class Source(NamedTuple):
    """A module of the checkpoint, or one of the equal parts its rows are cut into."""

    name: str  # '{}' is the number of the expert
    part: int = 0
    num_parts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Biases:
    """Which linear layers add a bias."""

    qkv: bool = False
    output: bool = False
    mlp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A checked configuration and where its weights are found.

    `names` says where each of our modules inside a layer is in the checkpoint.
    `num_extra_layers` layers past the last one (draft heads) are ignored.
    """

    name: str
    config: ArchConfig
    biases: Biases
    names: Mapping[str, Source]
    num_extra_layers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a family assumes for absent keys; None means derived from other sizes."""

    num_kv_heads: int | None
    head_dim: int | None
    rms_norm_eps: float
    partial_rotary_factor: float = 1.0


SEPARATE_MLP: Mapping[str, Source] = {
    "input_norm": Source("input_layernorm"),
    "attn.q": Source("self_attn.q_proj"),
    "attn.k": Source("self_attn.k_proj"),
    "attn.v": Source("self_attn.v_proj"),
    "attn.q_norm": Source("self_attn.q_norm"),
    "attn.k_norm": Source("self_attn.k_norm"),
    "attn.o": Source("self_attn.o_proj"),
    "mlp.norm": Source("post_attention_layernorm"),
    "mlp.gate": Source("mlp.gate_proj"),
    "mlp.up": Source("mlp.up_proj"),
    "mlp.down": Source("mlp.down_proj"),
}


def parse_dense(
    fields: Fields, weights: WeightFormat, defaults: Defaults, *, rope_interleaved: bool
) -> ArchConfig:
    """The keys all families share; ModelConfigError for wrong types and absurd values."""
    hidden_size = fields.integer("hidden_size", 1, MAX_WIDTH)
    num_heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    num_kv_heads = fields.integer(
        "num_key_value_heads", 1, num_heads, min(defaults.num_kv_heads or num_heads, num_heads)
    )
    if num_heads % num_kv_heads:
        fields.refuse("num_key_value_heads", f"a divisor of num_attention_heads {num_heads}")
    if not (fields.has("head_dim") or defaults.head_dim) and hidden_size % num_heads:
        fields.refuse("head_dim", f"a value, as {num_heads} heads do not divide {hidden_size}")
    head_dim = fields.integer(
        "head_dim", 2, MAX_HEAD_DIM, defaults.head_dim or hidden_size // num_heads
    )
    if head_dim % 2 or head_dim > MAX_HEAD_DIM:
        fields.refuse("head_dim", f"an even number up to {MAX_HEAD_DIM}")
    if fields.text("hidden_act", "silu") not in {"silu", "swish"}:
        fields.refuse("hidden_act", "'silu'")
    max_position = fields.integer("max_position_embeddings", 1, MAX_POSITION)
    rope = parse_rope(
        fields,
        head_dim=head_dim,
        partial_default=defaults.partial_rotary_factor,
        max_position=max_position,
    )
    return ArchConfig(
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden_size=hidden_size,
        num_layers=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.integer("intermediate_size", 1, MAX_WIDTH),
        rms_norm_eps=fields.real("rms_norm_eps", 1e-12, 1.0, defaults.rms_norm_eps),
        rotary_dim=rope.rotary_dim,
        rope_interleaved=rope_interleaved,
        inv_freq=rope.inv_freq,
        rope_scale=rope.scale,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        max_position=max_position,
        weights=weights,
    )


def refuse_partial_rotary(fields: Fields, config: ArchConfig) -> None:
    """For families whose reference rotates whole heads only."""
    if config.rotary_dim != config.head_dim:
        message = f"{fields.where}: this architecture has no partial rotary embedding"
        raise ModelConfigError(message)


def refuse_sliding_window(fields: Fields, num_layers: int) -> None:
    """UnsupportedModelError when some layer would attend to a window only."""
    kinds = fields.texts("layer_types")
    if kinds:
        is_windowed = any(kind != "full_attention" for kind in kinds)
    else:
        first = fields.integer("max_window_layers", 0, 1 << 20, 28)
        is_windowed = (
            fields.boolean("use_sliding_window", default=False)
            and fields.integer("sliding_window", 0, MAX_POSITION, 4096) > 0
            and first < num_layers
        )
    if is_windowed:
        message = f"{fields.where}: sliding window attention is not supported"
        raise UnsupportedModelError(message)
