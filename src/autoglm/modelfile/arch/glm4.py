"""Glm4ForCausalLM: GLM-4-0414. As Glm, with two more norms a layer, before the residual adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from autoglm.modelfile.arch import glm
from autoglm.modelfile.arch.base import Architecture, Source, WeightFormat
from autoglm.modelfile.fields import Fields

NAME = "Glm4ForCausalLM"
NAMES: Mapping[str, Source] = {
    **glm.NAMES,
    "attn.post_norm": Source("post_self_attn_layernorm"),
    "mlp.post_norm": Source("post_mlp_layernorm"),
}


def parse(fields: Fields, weights: WeightFormat) -> Architecture:
    """The graph of a GLM-4-0414 configuration."""
    base = glm.parse(fields, weights)
    config = dataclasses.replace(base.config, sandwich_norms=True)
    return dataclasses.replace(base, name=NAME, config=config, names=NAMES)
