"""Qwen3ForCausalLM. Half-split rope, RMSNorm of every q and k head before it."""

from __future__ import annotations

import dataclasses

from autoglm.modelfile.arch.base import (
    SEPARATE_MLP,
    Architecture,
    Biases,
    Defaults,
    WeightFormat,
    parse_dense,
    refuse_partial_rotary,
    refuse_sliding_window,
)
from autoglm.modelfile.fields import Fields

NAME = "Qwen3ForCausalLM"
DEFAULTS = Defaults(num_kv_heads=None, head_dim=128, rms_norm_eps=1e-6)


def parse(fields: Fields, weights: WeightFormat) -> Architecture:
    """The graph of a Qwen3 configuration."""
    config = parse_dense(fields, weights, DEFAULTS, rope_interleaved=False)
    refuse_partial_rotary(fields, config)
    refuse_sliding_window(fields, config.num_layers)
    has_bias = fields.boolean("attention_bias", default=False)
    return Architecture(
        name=NAME,
        config=dataclasses.replace(config, qk_norm=True),
        biases=Biases(qkv=has_bias, output=has_bias),
        names=SEPARATE_MLP,
    )
