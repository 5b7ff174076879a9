"""How exactly a model computes: fast rounds activations and the KV cache to 8 bits, exact to 16.

Decision 11 has what each costs and brings. Weights are what the bundle says in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoglm.config import FAST

if TYPE_CHECKING:
    from autoglm.modelfile.arch import ArchConfig

_SCALE_BYTES = 4


def kv_dtype(config: ArchConfig, precision: str) -> str:
    """The type of keys and values in the cache."""
    if config.weights == "fp32":
        return "fp32"
    return "int8" if precision == FAST else "fp16"


def kv_token_bytes(config: ArchConfig, precision: str) -> int:
    """Keys and values of one token in the cache; int8 rows are padded and have a scale each."""
    dim = config.head_dim
    rows = {
        "fp32": 2 * dim * 4,
        "fp16": 2 * dim * 2,
        "int8": -(-dim // 64) * 64 + -(-dim // 16) * 16 + 2 * _SCALE_BYTES,
    }
    return config.num_layers * config.num_kv_heads * rows[kv_dtype(config, precision)]
