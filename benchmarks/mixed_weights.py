"""Stand-ins for bundles of mixed precision: a float checkpoint of weights rounded as packing would.

A bundle has one weight format; this asks what another format for some matrices would bring before
anyone builds it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoglm import _core

Float32 = NDArray[np.float32]
# Int4 as peers round it: one half-precision scale for so many weights of a row.
PEER_BLOCKS = {"q4_0": 32, "q4_128": 128}
BF16_SHIFT = 16


def parse_mixture(mixture: str) -> Callable[[str], str]:
    """The format for a matrix's name, of `int4,self_attn=int8`; the last match counts."""
    default, *exceptions = mixture.split(",")
    formats = dict(exception.split("=") for exception in exceptions)

    def format_of(name: str) -> str:
        return next((form for kind, form in reversed(formats.items()) if kind in name), default)

    return format_of


def read_tensors(path: Path) -> dict[str, Float32]:
    """Every tensor of a bf16 safetensors file as float32."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] != "BF16":
            message = f"{path}: tensor {name!r} is {entry['dtype']}, not BF16"
            raise ValueError(message)
        bits = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << BF16_SHIFT
        tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


def write_tensors(path: Path, tensors: dict[str, Float32]) -> None:
    """A float32 safetensors file."""
    entries: dict[str, object] = {}
    offset = 0
    for name, values in tensors.items():
        end = offset + 4 * math.prod(values.shape)
        entries[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries).encode()
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for values in tensors.values():
            stream.write(values.astype("<f4").tobytes())


def rounded(values: Float32, weights: str) -> Float32:
    """A matrix after packing and unpacking, by us or as a peer would."""
    rows, cols = values.shape
    if weights in PEER_BLOCKS:
        return _block_rounded(values, PEER_BLOCKS[weights])
    parts = _core.pack_rows(weights, "F32", values.tobytes(), rows, cols)
    flat = np.frombuffer(_core.dequantize(weights, parts, rows, cols), np.float32)
    return flat.reshape(rows, cols)


def _block_rounded(values: Float32, block: int) -> Float32:
    """Codes -8..7; the value furthest from 0 is -8 times the scale."""
    blocks = values.reshape(-1, block)
    furthest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    scales = (furthest / -8).astype(np.float16).astype(np.float32)
    safe = np.where(scales == 0, np.float32(1), scales)
    codes = np.clip(np.rint(blocks / safe), -8, 7)
    return (codes * scales).reshape(values.shape)


def write_rounded(source: Path, out: Path, format_of: Callable[[str], str]) -> None:
    """Copy a checkpoint with every matrix rounded to the format `format_of` gives for its name.

    The format fp32 leaves a matrix as it is.
    """
    shutil.copytree(source, out)
    tensors = read_tensors(source / "model.safetensors")
    for name, values in tensors.items():
        if values.ndim == 2 and (weights := format_of(name)) != "fp32":
            tensors[name] = rounded(values, weights)
    write_tensors(out / "model.safetensors", tensors)
