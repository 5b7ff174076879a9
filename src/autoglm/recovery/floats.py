"""A bundle's values in float32 as arrays, and arrays as the checkpoint that it is made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autoglm.compression.codes import Floats, unpack
from autoglm.errors import InputError
from autoglm.modelfile.arch import ArchConfig, Architecture
from autoglm.modelfile.bundle import CONFIG_NAME, WEIGHTS_NAME, read_bundle_config, read_config
from autoglm.modelfile.layout import ROW_BLOCK, Matrix, Vector, bundle_tensors
from autoglm.modelfile.manifest import MANIFEST_NAME
from autoglm.modelfile.packing import packed_tensors
from autoglm.modelfile.safetensors import TensorFile
from autoglm.modelfile.safetensors_writer import SafetensorsWriter, TensorSpec
from autoglm.modelfile.staging import staged_directory, write_file

_OWN_FILES = (CONFIG_NAME, WEIGHTS_NAME, MANIFEST_NAME, "recipe.toml")


class FloatModel(NamedTuple):
    """What the engine reads, by the names of the bundle's tensors, in float32."""

    arch: Architecture
    tensors: dict[str, Floats]

    @property
    def config(self) -> ArchConfig:
        """Its sizes."""
        return self.arch.config


def read_floats(bundle: Path) -> FloatModel:
    """All tensors of a bundle, packed ones unpacked; biases that it lacks stay absent.

    InputError names a matrix that is more than its own values: scales of inputs, offsets, experts.
    """
    _, arch, packing = read_bundle_config(bundle)
    found: dict[str, Floats] = {}
    with TensorFile(bundle / WEIGHTS_NAME) as file:
        stored = file.header.tensors

        def read(name: str) -> bytes:
            return file.read(stored[name], 0, stored[name].nbytes)

        for tensor in packed_tensors(arch, packing):
            names = [spec.name for spec in tensor.parts()]
            if names[0] not in stored:
                continue
            if isinstance(tensor, Matrix):
                if tensor.inputs or tensor.has_offset or tensor.is_stacked:
                    message = f"{bundle}: '{tensor.name}' stores scales, offsets or experts"
                    raise InputError(message)
                parts = [read(name) for name in names]
                found[tensor.name] = unpack(parts, tensor.weights, tensor.rows, tensor.cols).copy()
            else:
                values = np.frombuffer(read(names[0]), np.float32)
                found[tensor.name] = values.reshape(tensor.shape).copy()
    return FloatModel(arch, found)


def write_checkpoint(out: Path, bundle: Path, model: FloatModel) -> None:
    """The checkpoint, in float32, whose bundle holds these tensors; small files are `bundle`'s."""
    sources: dict[str, Floats] = {}
    for tensor in bundle_tensors(model.arch):
        values = model.tensors.get(tensor.name)
        for rows, part in zip(tensor.pieces, _pieces(tensor, values), strict=True):
            whole = sources.setdefault(rows.source, np.zeros(rows.source_shape, np.float32))
            whole[rows.start : rows.start + rows.count] = part
    config = dict(read_config(bundle))
    config.pop("quantization_config", None)
    config["torch_dtype"] = "float32"
    with staged_directory(out) as stage:
        specs = [TensorSpec(name, "F32", array.shape) for name, array in sources.items()]
        with SafetensorsWriter(stage / WEIGHTS_NAME, specs) as writer:
            for name, array in sources.items():
                writer.append(name, array.tobytes())
            writer.finish()
        write_file(stage / CONFIG_NAME, json.dumps(config, indent=2).encode())
        for path in sorted(bundle.iterdir()):
            if path.name not in _OWN_FILES:
                write_file(stage / path.name, path.read_bytes())


def _pieces(tensor: Matrix | Vector, values: Floats | None) -> list[Floats | float]:
    """What each piece of the checkpoint gets; zeros where the bundle has left a bias out."""
    pieces = tensor.pieces
    if values is None:
        return [0.0] * len(pieces)
    if tensor.is_interleaved:
        sides = values.reshape(-1, len(pieces), ROW_BLOCK, *values.shape[1:])
        return [
            sides[:, side].reshape(-1, *values.shape[1:])[: rows.count]
            for side, rows in enumerate(pieces)
        ]
    ends = np.cumsum([rows.count for rows in pieces])
    return list(np.split(values, ends[:-1]))
