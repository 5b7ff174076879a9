"""Glm4MoeForCausalLM: GLM-4.5, GLM-4.5-Air. Half-split partial rope, sigmoid router."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from autoglm.modelfile.arch.base import (
    MAX_EXPERTS,
    MAX_LAYERS,
    MAX_SHARED_EXPERTS,
    MAX_WIDTH,
    SEPARATE_MLP,
    ArchConfig,
    Architecture,
    Biases,
    Defaults,
    Source,
    WeightFormat,
    parse_dense,
)
from autoglm.modelfile.fields import Fields

NAME = "Glm4MoeForCausalLM"
NAMES: Mapping[str, Source] = {
    **SEPARATE_MLP,
    "moe.router": Source("mlp.gate"),
    "moe.experts.gate": Source("mlp.experts.{}.gate_proj"),
    "moe.experts.up": Source("mlp.experts.{}.up_proj"),
    "moe.experts.down": Source("mlp.experts.{}.down_proj"),
    "moe.shared.gate": Source("mlp.shared_experts.gate_proj"),
    "moe.shared.up": Source("mlp.shared_experts.up_proj"),
    "moe.shared.down": Source("mlp.shared_experts.down_proj"),
}
DEFAULTS = Defaults(num_kv_heads=8, head_dim=None, rms_norm_eps=1e-5, partial_rotary_factor=0.5)


def parse(fields: Fields, weights: WeightFormat) -> Architecture:
    """The graph of a GLM-4.5 configuration."""
    dense = parse_dense(fields, weights, DEFAULTS, rope_interleaved=False)
    return Architecture(
        name=NAME,
        config=_with_experts(fields, dense),
        biases=Biases(qkv=fields.boolean("attention_bias", default=False)),
        names=NAMES,
        num_extra_layers=fields.integer("num_nextn_predict_layers", 0, MAX_LAYERS, 1),
    )


def _with_experts(fields: Fields, dense: ArchConfig) -> ArchConfig:
    num_experts = fields.integer("n_routed_experts", 1, MAX_EXPERTS, 128)
    n_group = fields.integer("n_group", 1, num_experts, 1)
    if num_experts % n_group or num_experts // n_group < 2:
        fields.refuse("n_group", f"groups of at least 2 of the {num_experts} experts")
    topk_group = fields.integer("topk_group", 1, n_group, 1)
    num_selectable = num_experts // n_group * topk_group
    return dataclasses.replace(
        dense,
        qk_norm=fields.boolean("use_qk_norm", default=False),
        num_experts=num_experts,
        num_experts_per_tok=fields.integer("num_experts_per_tok", 1, num_selectable, 8),
        num_shared_experts=fields.integer("n_shared_experts", 1, MAX_SHARED_EXPERTS, 1),
        moe_intermediate_size=fields.integer("moe_intermediate_size", 1, MAX_WIDTH, 1408),
        first_k_dense=min(
            fields.integer("first_k_dense_replace", 0, MAX_LAYERS, 1), dense.num_layers
        ),
        n_group=n_group,
        topk_group=topk_group,
        routed_scaling_factor=fields.real("routed_scaling_factor", 1e-6, 1e6, 1.0),
        norm_topk_prob=fields.boolean("norm_topk_prob", default=True),
    )
