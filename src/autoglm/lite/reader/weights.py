"""The reader's file: tables over hashed terms and small networks, in safetensors.

Part of a bundle, as `reader.safetensors`; checked like every model file before a number is used.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoglm.errors import ModelFileError
from autoglm.modelfile.safetensors import TensorFile, TensorInfo
from autoglm.modelfile.safetensors_writer import PAD_PREFIX, SafetensorsWriter, TensorSpec

READER_NAME = "reader.safetensors"
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_MAX_BYTES = 64 << 20
_SPREAD_LIMIT = 5.0

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Tensors = Mapping[str, Array]


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors of a reader's file. Raises ModelFileError."""
    with TensorFile(path) as file:
        if file.header.file_bytes > _MAX_BYTES:
            message = (
                f"{path}: has {file.header.file_bytes} bytes; a reader has at most {_MAX_BYTES}"
            )
            raise ModelFileError(message)
        named = file.header.tensors.values()
        return {t.name: _read(file, t) for t in named if not t.name.startswith(PAD_PREFIX)}


def _read(file: TensorFile, info: TensorInfo) -> Array:
    where = f"{file.header.path}: tensor '{info.name}'"
    if info.dtype not in _DTYPES:
        message = f"{where} is {info.dtype}; expected F32, I8 or U8"
        raise ModelFileError(message)
    raw = file.read(info, 0, info.nbytes)
    values: Array = np.frombuffer(raw, dtype=_DTYPES[info.dtype]).reshape(info.shape)
    if info.dtype == "F32" and not np.isfinite(values).all():
        message = f"{where} holds a number that is not finite"
        raise ModelFileError(message)
    return values


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a reader's file anew; names in order, so equal tensors give equal bytes."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    specs = [
        TensorSpec(name, names[value.dtype], value.shape) for name, value in sorted(tensors.items())
    ]
    path.unlink(missing_ok=True)
    with SafetensorsWriter(path, specs) as out:
        for spec in specs:
            out.append(spec.name, np.ascontiguousarray(tensors[spec.name]).tobytes())


def tensor(tensors: Tensors, name: str, dtype: str, num_axes: int) -> Array:
    """One tensor of the expected kind. Raises ModelFileError."""
    value = tensors.get(name)
    if value is None or value.dtype != _DTYPES[dtype] or value.ndim != num_axes or not value.size:
        have = "missing" if value is None else f"{value.dtype} {list(value.shape)}"
        message = f"{READER_NAME}: tensor '{name}' is {have}; expected {dtype}, {num_axes} axes"
        raise ModelFileError(message)
    return value


class TermTable:
    """A number for every term: codes of 8 bits under the term's hash, times a step."""

    def __init__(self, codes: Array, step: float) -> None:
        self._values: Floats = codes.astype(np.float32) * np.float32(step)

    def __len__(self) -> int:
        return len(self._values)

    def values(self, terms: Iterable[str]) -> Floats:
        """float32 [num_terms]."""
        return self._values[hashes(terms, len(self._values))]


def hashes(terms: Iterable[str], size: int) -> npt.NDArray[np.int64]:
    """Places of terms in a table of `size`."""
    return np.array([zlib.crc32(term.encode()) % size for term in terms], dtype=np.int64)


class Network:
    """A multilayer perceptron with ReLU over standardised features."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        """Takes `name.mean`, `name.spread`, `name.0.weight` and so on. Raises ModelFileError."""
        self._mean = tensor(tensors, f"{name}.mean", "F32", 1)
        self._spread = tensor(tensors, f"{name}.spread", "F32", 1)
        self._layers: list[tuple[Array, Array]] = []
        width = len(self._mean)
        while f"{name}.{len(self._layers)}.weight" in tensors:
            stem = f"{name}.{len(self._layers)}"
            weight = tensor(tensors, f"{stem}.weight", "F32", 2)
            bias = tensor(tensors, f"{stem}.bias", "F32", 1)
            if weight.shape != (len(bias), width):
                message = f"{READER_NAME}: '{stem}' is {weight.shape}; expected {len(bias), width}"
                raise ModelFileError(message)
            self._layers.append((weight, bias))
            width = len(bias)
        if not self._layers or len(self._spread) != len(self._mean):
            message = f"{READER_NAME}: network '{name}' is incomplete"
            raise ModelFileError(message)
        self.num_features = len(self._mean)

    def scores(self, features: Floats) -> Floats:
        """float32 [num_rows, num_outputs] of float32 [num_rows, num_features]."""
        state = np.clip((features - self._mean) / self._spread, -_SPREAD_LIMIT, _SPREAD_LIMIT)
        for number, (weight, bias) in enumerate(self._layers):
            if number:
                state = np.maximum(state, 0.0)
            state = state @ weight.T + bias
        return np.asarray(state, dtype=np.float32)
