"""Rotary position embedding: inverse frequencies in float32, as transformers computes them.

Reads both the old form (`rope_theta`, `rope_scaling`, `partial_rotary_factor`) and the newer
`rope_parameters`. Papers: RoPE arXiv 2104.09864, YaRN arXiv 2309.00071; llama3 is Llama 3.1's own.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from autoglm.errors import UnsupportedModelError
from autoglm.modelfile.fields import Fields

SUPPORTED = ("default", "linear", "llama3", "yarn")
_MAX_CONTEXT = 1 << 30


@dataclass(frozen=True, slots=True)
class Rope:
    """`inv_freq` has `rotary_dim / 2` values; `scale` multiplies cos and sin."""

    rotary_dim: int
    inv_freq: tuple[float, ...]
    scale: float


def parse_rope(fields: Fields, *, head_dim: int, partial_default: float, max_position: int) -> Rope:
    """The rope of a configuration; UnsupportedModelError names an unknown scaling."""
    scaling = fields.nested("rope_scaling")
    if not (scaling.has("rope_type") or scaling.has("type")):
        scaling = fields.nested("rope_parameters")
    if scaling.has("full_attention") or scaling.has("sliding_attention"):
        message = f"{fields.where}: rope that differs between layers is not supported"
        raise UnsupportedModelError(message)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind not in SUPPORTED:
        message = (
            f"{scaling.where}: rope type {kind[:40]!r} is not supported; "
            f"supported are {', '.join(SUPPORTED)}"
        )
        raise UnsupportedModelError(message)
    theta = _first(scaling, fields, "rope_theta", 1.001, 1e12, 10_000.0)
    partial = _first(scaling, fields, "partial_rotary_factor", 0.0, 1.0, partial_default)
    rotary_dim = int(head_dim * partial)
    if rotary_dim < 2 or rotary_dim % 2:
        message = f"{fields.where}: rope over {rotary_dim} of {head_dim} dimensions is not even"
        raise UnsupportedModelError(message)
    inv_freq = [_f32(1.0 / power) for power in _powers(theta, rotary_dim)]
    if kind == "default":
        return Rope(rotary_dim, tuple(inv_freq), 1.0)
    factor = scaling.real("factor", 1.0, 1e6)
    if kind == "linear":
        return Rope(rotary_dim, tuple(_f32(freq / factor) for freq in inv_freq), 1.0)
    original = _original_context(scaling, fields, max_position)
    if kind == "llama3":
        return Rope(rotary_dim, _llama3(scaling, inv_freq, factor, original), 1.0)
    return _yarn(scaling, rotary_dim, theta, factor, original)


def _f32(value: float) -> float:
    """Round to float32."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _powers(theta: float, rotary_dim: int) -> list[float]:
    exponents = [_f32(i / rotary_dim) for i in range(0, rotary_dim, 2)]
    return [_f32(_f32(theta) ** exponent) for exponent in exponents]


def _first(
    scaling: Fields, fields: Fields, key: str, low: float, high: float, default: float
) -> float:
    source = scaling if scaling.has(key) else fields
    return source.real(key, low, high, default)


def _original_context(scaling: Fields, fields: Fields, max_position: int) -> int:
    key = "original_max_position_embeddings"
    source = fields if fields.has(key) else scaling
    return source.integer(key, 1, _MAX_CONTEXT, max_position)


def _llama3(
    scaling: Fields, inv_freq: list[float], factor: float, original: int
) -> tuple[float, ...]:
    """Long wavelengths divided by `factor`, short ones kept, between them a linear blend."""
    low = scaling.real("low_freq_factor", 1e-3, 1e6)
    high = scaling.real("high_freq_factor", 1e-3, 1e6)
    if high <= low:
        scaling.refuse("high_freq_factor", f"a number above low_freq_factor {low:g}")
    result: list[float] = []
    for freq in inv_freq:
        wavelength = _f32(_f32(1.0 / freq) * _f32(2 * math.pi))
        if wavelength > original / low:
            result.append(_f32(freq / factor))
        elif wavelength < original / high:
            result.append(freq)
        else:
            turns = _f32(_f32(1.0 / wavelength) * original)
            smooth = _f32(_f32(turns - low) / (high - low))
            slow = _f32(_f32(_f32(1.0 - smooth) * freq) / factor)
            result.append(_f32(slow + _f32(smooth * freq)))
    return tuple(result)


def _yarn(scaling: Fields, rotary_dim: int, theta: float, factor: float, original: int) -> Rope:
    beta_fast = scaling.real("beta_fast", 1e-3, 1e6, 32.0)
    beta_slow = scaling.real("beta_slow", 1e-3, 1e6, 1.0)
    first = _turning_dim(beta_fast, rotary_dim, theta, original)
    last = _turning_dim(beta_slow, rotary_dim, theta, original)
    if scaling.boolean("truncate", default=True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    if first == last:
        last += 0.001  # as the reference: avoids a division by zero
    inv_freq: list[float] = []
    for i, power in enumerate(_powers(theta, rotary_dim)):
        ramp = min(max(_f32(_f32(i - first) / _f32(last - first)), 0.0), 1.0)
        kept = _f32(1.0 - ramp)
        stretched = _f32(1.0 / _f32(factor * power))
        inv_freq.append(_f32(_f32(stretched * _f32(1.0 - kept)) + _f32(_f32(1.0 / power) * kept)))
    return Rope(rotary_dim, tuple(inv_freq), _yarn_scale(scaling, factor))


def _turning_dim(rotations: float, rotary_dim: int, theta: float, original: int) -> float:
    """The dimension that makes `rotations` turns over the original context."""
    turns = math.log(original / (rotations * 2 * math.pi))
    return rotary_dim * turns / (2 * math.log(theta))


def _yarn_scale(scaling: Fields, factor: float) -> float:
    if scaling.has("attention_factor"):
        return scaling.real("attention_factor", 1e-6, 1e6)
    top = scaling.real("mscale", 0.0, 1e3, 0.0)
    bottom = scaling.real("mscale_all_dim", 0.0, 1e3, 0.0)
    if top and bottom:
        return _mscale(factor, top) / _mscale(factor, bottom)
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
