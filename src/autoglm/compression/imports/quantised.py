"""Checkpoints quantised by GPTQ or AWQ tools (safetensors), read as the floats they stand for.

GPTQ packs eight 4-bit codes (or four of 8 bits) along the inputs, AWQ along the outputs in an order
of its own. Both keep a scale and a zero point for each group of inputs and each output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoglm.errors import ModelConfigError, ModelFileError, UnsupportedModelError
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.layout import Rows
from autoglm.modelfile.safetensors import TensorInfo

Method = Literal["gptq", "awq"]
Floats = NDArray[np.float32]
Codes = NDArray[np.int32]

_WORD_BITS = 32
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # the place in a word of each of eight outputs
_SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")


class Packing(NamedTuple):
    """What the checkpoint's quantization_config says."""

    method: Method
    bits: int
    group_size: int  # 0: all inputs
    zero_offset: int  # what is added to stored zero points


def read_packing(fields: Fields) -> Packing:
    """UnsupportedModelError for methods and layouts that are not read."""
    entry = fields.nested("quantization_config")
    name = entry.text("quant_method", "")
    if name not in ("gptq", "awq"):
        message = f"{fields.where}: weights are quantised by {name[:40]!r}; read are gptq and awq"
        raise UnsupportedModelError(message)
    method: Method = "gptq" if name == "gptq" else "awq"
    bits = entry.integer("bits", 2, 8)
    if bits not in ((4, 8) if method == "gptq" else (4,)):
        message = f"{fields.where}: {method} of {bits} bits is not read"
        raise UnsupportedModelError(message)
    if method == "awq" and entry.text("version", "gemm").lower() != "gemm":
        message = f"{fields.where}: awq in the layout {entry.text('version')[:40]!r} is not read"
        raise UnsupportedModelError(message)
    group_size = entry.integer("group_size", -1, 1 << 16, 128)
    has_offset = method == "gptq" and entry.text("checkpoint_format", "gptq") != "gptq_v2"
    return Packing(method, bits, max(group_size, 0), int(has_offset))


class QuantisedCheckpoint(Checkpoint):
    """Float rows of linear layers that are stored as codes; one dequantised layer is kept."""

    def __init__(self, directory: Path, packing: Packing) -> None:
        """ModelFileError and its kinds say what is wrong with the files."""
        self._packing = packing
        self._parts: dict[str, dict[str, tuple[str, TensorInfo]]] = {}
        self._kept: tuple[str, Floats] | None = None
        super().__init__(directory)

    def read_rows(self, rows: Rows, start: int, count: int) -> bytes:
        """`count` rows from row `start` of the piece."""
        stem = rows.source.removesuffix(".weight")
        if stem not in self._parts:
            return super().read_rows(rows, start, count)
        if self._kept is None or self._kept[0] != stem:
            self._kept = stem, self._dequantised(stem)
        begin = rows.start + start
        return self._kept[1][begin : begin + count].tobytes()

    def _open(self) -> None:
        super()._open()
        for name in [name for name in self.tensors if name.endswith(".qweight")]:
            stem = name.removesuffix(".qweight")
            parts = {
                suffix: self.tensors.pop(f"{stem}.{suffix}")
                for suffix in _SUFFIXES
                if f"{stem}.{suffix}" in self.tensors
            }
            self._parts[stem] = parts
            shape = self._checked_shape(stem, parts)
            info = TensorInfo(f"{stem}.weight", "F32", shape, 0, 4 * shape[0] * shape[1])
            self.tensors[f"{stem}.weight"] = parts["qweight"][0], info

    def _checked_shape(
        self, stem: str, parts: dict[str, tuple[str, TensorInfo]]
    ) -> tuple[int, int]:
        """[outputs, inputs]; ModelConfigError when the parts do not fit together."""
        missing = {"qweight", "qzeros", "scales"} - parts.keys()
        if missing:
            message = f"{self._directory}: '{stem}' lacks {', '.join(sorted(missing))}"
            raise ModelConfigError(message)
        shapes = {suffix: info.shape for suffix, (_, info) in parts.items()}
        if any(len(shapes[suffix]) != 2 for suffix in ("qweight", "qzeros", "scales")):
            message = f"{self._directory}: the parts of '{stem}' are no matrices"
            raise ModelConfigError(message)
        per_word = _WORD_BITS // self._packing.bits
        rows, cols = shapes["qweight"]
        is_gptq = self._packing.method == "gptq"
        inputs, outputs = (rows * per_word, cols) if is_gptq else (rows, cols * per_word)
        num_groups = -(-inputs // (self._packing.group_size or inputs))
        wanted = {
            "qweight": ("I32", (rows, cols)),
            "qzeros": ("I32", (num_groups, outputs // per_word)),
            "scales": ("F16", (num_groups, outputs)),
            "g_idx": ("I32", (inputs,)),
        }
        for suffix, (_, info) in parts.items():
            dtype, shape = wanted[suffix]
            if info.shape != shape or info.dtype != dtype:
                message = (
                    f"{self._directory}: '{stem}.{suffix}' is {info.dtype} {list(info.shape)}, "
                    f"the layout asks for {dtype} {list(shape)}"
                )
                raise ModelConfigError(message)
        return outputs, inputs

    def _dequantised(self, stem: str) -> Floats:
        """The matrix [outputs, inputs]."""
        bits, group_size = self._packing.bits, self._packing.group_size
        parts = {suffix: self._stored(place) for suffix, place in self._parts[stem].items()}
        if self._packing.method == "gptq":
            codes = unpack_words(parts["qweight"].T, bits).T
            zeros = unpack_words(parts["qzeros"], bits)
        else:
            codes = unpack_words(parts["qweight"], bits, _AWQ_ORDER)
            zeros = unpack_words(parts["qzeros"], bits, _AWQ_ORDER)
        groups = parts.get("g_idx", np.arange(len(codes)) // (group_size or len(codes)))
        scales = parts["scales"].astype(np.float32)
        if groups.min() < 0 or groups.max() >= len(scales):
            message = f"{self._directory}: '{stem}.g_idx' names groups that there are not"
            raise ModelFileError(message)
        steps = (codes - (zeros + self._packing.zero_offset)[groups]).astype(np.float32)
        return np.ascontiguousarray((steps * scales[groups]).T)

    def _stored(self, place: tuple[str, TensorInfo]) -> NDArray[np.generic]:
        shard, info = place
        dtype = {"I32": np.int32, "F16": np.float16}[info.dtype]
        data = self._files[shard].read(info, 0, info.nbytes)
        return np.frombuffer(data, dtype).reshape(info.shape)


def unpack_words(
    words: NDArray[np.generic], bits: int, order: tuple[int, ...] | None = None
) -> Codes:
    """Codes [rows, cols * per word] of 32-bit words; `order` is the place of each in its word."""
    per_word = _WORD_BITS // bits
    places = np.array(order or range(per_word), np.uint32) * np.uint32(bits)
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    codes = (unsigned[:, :, None] >> places) & np.uint32((1 << bits) - 1)
    return codes.astype(np.int32).reshape(len(words), -1)
