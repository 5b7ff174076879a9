"""LlamaForCausalLM: Llama 2 to 3.2 and the many models that share its graph. Half-split rope."""

from __future__ import annotations

from autoglm.modelfile.arch.base import (
    SEPARATE_MLP,
    Architecture,
    Biases,
    Defaults,
    WeightFormat,
    parse_dense,
    refuse_partial_rotary,
)
from autoglm.modelfile.fields import Fields

NAME = "LlamaForCausalLM"
DEFAULTS = Defaults(num_kv_heads=None, head_dim=None, rms_norm_eps=1e-6)


def parse(fields: Fields, weights: WeightFormat) -> Architecture:
    """The graph of a Llama configuration."""
    config = parse_dense(fields, weights, DEFAULTS, rope_interleaved=False)
    refuse_partial_rotary(fields, config)
    has_bias = fields.boolean("attention_bias", default=False)
    return Architecture(
        name=NAME,
        config=config,
        biases=Biases(qkv=has_bias, output=has_bias, mlp=fields.boolean("mlp_bias", default=False)),
        names=SEPARATE_MLP,
    )
