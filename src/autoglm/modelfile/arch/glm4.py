"""Glm4ForCausalLM: GLM-4-0414. As Glm, with two more norms a layer, before the residual adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from autoglm.modelfile.arch import glm
from autoglm.modelfile.arch.base import Architecture, WeightFormat
from autoglm.modelfile.fields import Fields

NAME = "Glm4ForCausalLM"
NAMES: Mapping[str, tuple[str, ...]] = {
    **glm.NAMES,
    "attn.post_norm": ("post_self_attn_layernorm",),
    "mlp.post_norm": ("post_mlp_layernorm",),
}


def parse(fields: Fields, weights: WeightFormat) -> Architecture:
    """The graph of a GLM-4-0414 configuration."""
    base = glm.parse(fields, weights)
    config = dataclasses.replace(base.config, sandwich_norms=True)
    return dataclasses.replace(base, name=NAME, config=config, names=NAMES)
