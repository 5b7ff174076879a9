"""Qwen2ForCausalLM: Qwen2, Qwen2.5. Half-split rope, biases on q, k and v only."""

from __future__ import annotations

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

NAME = "Qwen2ForCausalLM"
DEFAULTS = Defaults(num_kv_heads=None, head_dim=None, rms_norm_eps=1e-6)


def parse(fields: Fields, weights: WeightFormat) -> Architecture:
    """The graph of a Qwen2 configuration."""
    config = parse_dense(fields, weights, DEFAULTS, rope_interleaved=False)
    refuse_partial_rotary(fields, config)
    refuse_sliding_window(fields, config.num_layers)
    return Architecture(name=NAME, config=config, biases=Biases(qkv=True), names=SEPARATE_MLP)
