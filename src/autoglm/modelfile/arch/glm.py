"""GlmForCausalLM: GLM-4-9B-hf, GLM-Edge. Interleaved partial rope, gate and up rows fused."""

from __future__ import annotations

from collections.abc import Mapping

from autoglm.modelfile.arch.base import (
    SEPARATE_MLP,
    Architecture,
    Biases,
    Defaults,
    Source,
    WeightFormat,
    parse_dense,
)
from autoglm.modelfile.fields import Fields

NAME = "GlmForCausalLM"
NAMES: Mapping[str, Source] = {
    **SEPARATE_MLP,
    "mlp.gate": Source("mlp.gate_up_proj", part=0, num_parts=2),
    "mlp.up": Source("mlp.gate_up_proj", part=1, num_parts=2),
}
DEFAULTS = Defaults(num_kv_heads=2, head_dim=128, rms_norm_eps=1.5625e-7, partial_rotary_factor=0.5)


def parse(fields: Fields, weights: WeightFormat) -> Architecture:
    """The graph of a GLM configuration."""
    return Architecture(
        name=NAME,
        config=parse_dense(fields, weights, DEFAULTS, rope_interleaved=True),
        biases=Biases(qkv=fields.boolean("attention_bias", default=True)),
        names=NAMES,
    )
