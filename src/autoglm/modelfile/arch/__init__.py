"""Architectures: a `config.json` becomes the numbers of the native graph; a module per family."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoglm.errors import UnsupportedModelError
from autoglm.modelfile.arch import glm, glm4, glm4_moe, llama, qwen2, qwen3
from autoglm.modelfile.arch.base import (
    GROUPED_FORMATS,
    INTEGER_FORMATS,
    MOST_PRUNED_COLS,
    PRUNED_FORMATS,
    SPARSE_FORMATS,
    WEIGHT_FORMATS,
    ArchConfig,
    Architecture,
    Biases,
    WeightFormat,
)
from autoglm.modelfile.fields import Fields

__all__ = [
    "GROUPED_FORMATS",
    "INTEGER_FORMATS",
    "MOST_PRUNED_COLS",
    "PRUNED_FORMATS",
    "SPARSE_FORMATS",
    "SUPPORTED",
    "WEIGHT_FORMATS",
    "ArchConfig",
    "Architecture",
    "Biases",
    "WeightFormat",
    "parse_architecture",
]

_PARSERS: Mapping[str, Callable[[Fields, WeightFormat], Architecture]] = {
    family.NAME: family.parse for family in (glm, glm4, glm4_moe, llama, qwen2, qwen3)
}
SUPPORTED = tuple(_PARSERS)


def parse_architecture(fields: Fields, weights: WeightFormat) -> Architecture:
    """Check a configuration; UnsupportedModelError names the architecture and those we run."""
    names = fields.texts("architectures")
    if len(names) != 1:
        fields.refuse("architectures", "a list with one name")
    if names[0] not in _PARSERS:
        message = (
            f"{fields.where}: architecture {names[0][:80]!r} is not supported; "
            f"supported are {', '.join(SUPPORTED)}"
        )
        raise UnsupportedModelError(message)
    return _PARSERS[names[0]](fields, weights)
