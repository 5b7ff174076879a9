"""How a bundle's weights are stored, as the `quantization_config` of its config.json says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoglm.errors import ModelConfigError, UnsupportedModelError
from autoglm.modelfile.arch import (
    GROUPED_FORMATS,
    WEIGHT_FORMATS,
    Architecture,
    WeightFormat,
)
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.layout import (
    GROUP_SIZE,
    INPUT_PARTS,
    InputPart,
    Matrix,
    Tensors,
    bundle_tensors,
)

QUANT_METHOD = "autoglm"
FORMAT_VERSION = 1
DEFAULT_ACTIVATION_BITS = 16
_KEY = "quantization_config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The format of the matrices, that of some by name, and the passes that made the tensors.

    `activation_bits` are those of the activations that meet integer weights; `inputs` says by name
    which matrices ask more of theirs, `offsets` which have an offset.
    """

    weights: WeightFormat
    formats: Mapping[str, WeightFormat] = field(default_factory=dict)
    passes: tuple[str, ...] = ()
    activation_bits: int = DEFAULT_ACTIVATION_BITS
    inputs: Mapping[str, tuple[InputPart, ...]] = field(default_factory=dict)
    offsets: tuple[str, ...] = ()


def packed_tensors(arch: Architecture, packing: Packing) -> Tensors:
    """The tensors of a bundle, biases included that may be left out.

    ModelConfigError when something is said of a matrix that there is not.
    """
    tensors = bundle_tensors(arch)
    matrices = {tensor.name for tensor in tensors if isinstance(tensor, Matrix)}
    for key, names in (
        ("formats", set(packing.formats)),
        ("inputs", set(packing.inputs)),
        ("offsets", set(packing.offsets)),
    ):
        for name in names - matrices:
            message = f"{_KEY}: '{key}' names '{name[:200]}', which is no matrix of this model"
            raise ModelConfigError(message)
    return tuple(
        replace(
            tensor,
            weights=packing.formats.get(tensor.name, tensor.weights),
            inputs=packing.inputs.get(tensor.name, ()),
            has_offset=tensor.name in packing.offsets,
        )
        if isinstance(tensor, Matrix)
        else tensor
        for tensor in tensors
    )


def read_packing(fields: Fields, directory: Path) -> Packing:
    """The packing of a bundle; UnsupportedModelError for other checkpoints."""
    packing = fields.nested(_KEY)
    if not packing.has("quant_method") or packing.text("quant_method") != QUANT_METHOD:
        message = (
            f"{directory}: is not an autoglm bundle; write one with: "
            f"autoglm convert {directory} OUT --weights int8"
        )
        raise UnsupportedModelError(message)
    version = packing.integer("format", 0, 1 << 30)
    if version != FORMAT_VERSION:
        message = f"{directory}: bundle format {version}, this version reads {FORMAT_VERSION}"
        raise UnsupportedModelError(message)
    return Packing(
        weights=_format(packing, "weights"),
        formats=_formats(packing) if packing.has("formats") else {},
        passes=packing.texts("passes"),
        activation_bits=_activation_bits(packing),
        inputs=_inputs(packing) if packing.has("inputs") else {},
        offsets=packing.texts("offsets") if packing.has("offsets") else (),
    )


def config_text(config: Mapping[str, object], packing: Packing) -> bytes:
    """`config.json` of the bundle: the checkpoint's keys and how the weights are packed."""
    entry: dict[str, object] = {
        "quant_method": QUANT_METHOD,
        "format": FORMAT_VERSION,
        "weights": packing.weights,
        "passes": list(packing.passes),
    }
    if packing.activation_bits != DEFAULT_ACTIVATION_BITS:
        entry["activation_bits"] = packing.activation_bits
    if packing.formats:
        entry["formats"] = dict(packing.formats)
    if packing.inputs:
        entry["inputs"] = {name: list(parts) for name, parts in packing.inputs.items()}
    if packing.offsets:
        entry["offsets"] = list(packing.offsets)
    if {packing.weights, *packing.formats.values()} & set(GROUPED_FORMATS):
        entry["group_size"] = GROUP_SIZE
    return json.dumps({**config, _KEY: entry}, indent=2).encode() + b"\n"


def _formats(packing: Fields) -> dict[str, WeightFormat]:
    formats = packing.nested("formats")
    if not all(map(str.isprintable, formats.names())):
        packing.refuse("formats", "formats by the names of matrices")
    return {name: _format(formats, name) for name in formats.names()}


def _inputs(packing: Fields) -> dict[str, tuple[InputPart, ...]]:
    inputs = packing.nested("inputs")
    if not all(map(str.isprintable, inputs.names())):
        packing.refuse("inputs", "parts by the names of matrices")
    found: dict[str, tuple[InputPart, ...]] = {}
    for name in inputs.names():
        wanted = inputs.texts(name)
        found[name] = tuple(part for part in INPUT_PARTS if part in wanted)
        if len(found[name]) != len(wanted):
            inputs.refuse(name, f"some of {', '.join(INPUT_PARTS)}")
    return found


def _activation_bits(packing: Fields) -> int:
    bits = packing.integer("activation_bits", 8, 16, DEFAULT_ACTIVATION_BITS)
    if bits not in {8, 16}:
        packing.refuse("activation_bits", "8 or 16")
    return bits


def _format(fields: Fields, key: str) -> WeightFormat:
    name = fields.text(key)
    for weights in WEIGHT_FORMATS:
        if name == weights:
            return weights
    fields.refuse(key, f"one of {', '.join(WEIGHT_FORMATS)}")
