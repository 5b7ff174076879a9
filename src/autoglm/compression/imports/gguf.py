"""Strict, bounded reader of GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Every count and size is checked before use; tensors must lie in the file, aligned, without overlap
or rest. Knows nothing about what tensors and keys mean.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from autoglm.compression.imports.gguf_blocks import BLOCKS
from autoglm.errors import ModelFileError, UnsupportedModelError
from autoglm.modelfile.files import read_exactly
from autoglm.modelfile.open_tensors import OpenTensors

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 17
MAX_KEYS = 1 << 12
MAX_KEY_BYTES = 1 << 10
MAX_NAME_BYTES = 256
MAX_STRING_BYTES = 1 << 20
MAX_ITEMS = 1 << 22
MAX_HEADER_BYTES = 256 << 20
MAX_TENSOR_BYTES = 1 << 48
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

_ALIGNMENTS = tuple(1 << power for power in range(3, 17))
_WINDOW_BYTES = 1 << 20
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Kinds of numbers by their code in the file.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]


class GgufTensor(NamedTuple):
    """One tensor; `shape` has the slowest dimension first, `offset` counts from the file's start.

    `kind` is the name of its block format.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The keys of a file and its tensors by name."""

    keys: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]


class GgufFile(OpenTensors):
    """An open file; reads parts of tensors."""

    def __init__(self, path: Path) -> None:
        """Open and check; ModelFileError names the first fault."""
        super().__init__(path.resolve())
        self.path = path
        try:
            self.header = _Parser(self._descriptor, path, self._size).header()
        except ModelFileError as err:
            self.close()
            message = f"{path}: {err}"
            raise type(err)(message) from err
        except BaseException:
            self.close()
            raise


class _Parser:
    """Walks the header once, a window of the file in memory."""

    def __init__(self, descriptor: int, path: Path, size: int) -> None:
        self._descriptor = descriptor
        self._path = path
        self._size = size
        self._position = 0
        self._window = b""
        self._window_start = 0

    def header(self) -> GgufHeader:
        """The whole header, checked."""
        if self._take(4) != MAGIC:
            message = "is no GGUF file"
            raise ModelFileError(message)
        version = self._number("I")
        if version not in VERSIONS:
            message = f"is GGUF of version {version}, versions 2 and 3 are read"
            raise UnsupportedModelError(message)
        num_tensors = self._count("tensors", MAX_TENSORS)
        num_keys = self._count("keys", MAX_KEYS)
        keys: dict[str, Value] = {}
        for _ in range(num_keys):
            key = self._string(MAX_KEY_BYTES)
            if key in keys:
                message = f"key {key[:80]!r} occurs twice"
                raise ModelFileError(message)
            keys[key] = self._value()
        alignment = _alignment(keys)
        tensors = [self._tensor(alignment) for _ in range(num_tensors)]
        return GgufHeader(keys, self._laid_out(tensors, alignment))

    def _value(self) -> Value:
        kind = self._number("I")
        if kind != _ARRAY:
            return self._scalar(kind)
        item_kind = self._number("I")
        if item_kind == _ARRAY:
            message = "a key holds an array of arrays"
            raise ModelFileError(message)
        count = self._count("items of an array", MAX_ITEMS)
        if item_kind in _NUMBERS:
            code = _NUMBERS[item_kind]
            return struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(code)))
        return tuple(self._scalar(item_kind) for _ in range(count))

    def _scalar(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self._string(MAX_STRING_BYTES)
        if kind == _BOOL:
            byte = self._take(1)[0]
            if byte > 1:
                message = f"a truth value is {byte}"
                raise ModelFileError(message)
            return bool(byte)
        if kind not in _NUMBERS:
            message = f"a key has a value of unknown kind {kind}"
            raise ModelFileError(message)
        code = _NUMBERS[kind]
        value: Scalar = struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0]
        return value

    def _tensor(self, alignment: int) -> GgufTensor:
        """A tensor whose offset still counts from the end of the header."""
        name = self._string(MAX_NAME_BYTES)
        if not name or not name.isprintable():
            message = f"a tensor is called {name[:80]!r}"
            raise ModelFileError(message)
        num_dimensions = self._number("I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            message = f"tensor '{name}' has {num_dimensions} dimensions, 1 to 4 are read"
            raise ModelFileError(message)
        shape = tuple(self._number("Q") for _ in range(num_dimensions))[::-1]
        code = self._number("I")
        offset = self._number("Q")
        if code not in BLOCKS:
            known = ", ".join(block.name for block in BLOCKS.values())
            message = f"tensor '{name}' has type {code}; readable are {known}"
            raise UnsupportedModelError(message)
        if offset % alignment:
            message = f"tensor '{name}' begins at byte {offset}, no multiple of {alignment}"
            raise ModelFileError(message)
        return GgufTensor(name, BLOCKS[code].name, shape, offset, _num_bytes(name, code, shape))

    def _laid_out(self, tensors: list[GgufTensor], alignment: int) -> dict[str, GgufTensor]:
        """With offsets from the start of the file; nothing lies between tensors but padding."""
        data_start = _aligned(self._position, alignment)
        position = data_start
        result: dict[str, GgufTensor] = {}
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.name in result:
                message = f"tensor '{tensor.name}' occurs twice"
                raise ModelFileError(message)
            begin = data_start + tensor.offset
            if begin != _aligned(position, alignment):
                fault = "overlaps another tensor" if begin < position else "leaves a gap"
                message = f"tensor '{tensor.name}' begins at byte {begin}: {fault}"
                raise ModelFileError(message)
            position = begin + tensor.nbytes
            if position > self._size:
                message = (
                    f"tensor '{tensor.name}' ends at byte {position}, the file has {self._size}; "
                    "the download is incomplete, fetch it again"
                )
                raise ModelFileError(message)
            result[tensor.name] = tensor._replace(offset=begin)
        if self._size > _aligned(position, alignment):
            message = f"tensors end at byte {position}, the file has {self._size}"
            raise ModelFileError(message)
        return result

    def _count(self, what: str, most: int) -> int:
        count = self._number("Q")
        if count > most or count > self._size:
            message = f"says it holds {count} {what}, at most {most} are read"
            raise ModelFileError(message)
        return count

    def _string(self, most: int) -> str:
        length = self._number("Q")
        if length > most:
            message = f"a string has {length} bytes, at most {most} are read"
            raise ModelFileError(message)
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as err:
            message = f"a string before byte {self._position} is not UTF-8"
            raise ModelFileError(message) from err

    def _number(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0]
        return value

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > self._size:
            message = f"ends at byte {self._size} within the header; fetch it again"
            raise ModelFileError(message)
        if end > MAX_HEADER_BYTES:
            message = f"header is longer than {MAX_HEADER_BYTES} bytes"
            raise ModelFileError(message)
        if end > self._window_start + len(self._window):
            size = min(max(count, _WINDOW_BYTES), self._size - self._position)
            self._window = read_exactly(self._descriptor, size, self._position, self._path)
            self._window_start = self._position
        start = self._position - self._window_start
        self._position = end
        return self._window[start : start + count]


def _alignment(keys: Mapping[str, Value]) -> int:
    alignment = keys.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is int and alignment in _ALIGNMENTS:
        return alignment
    message = f"general.alignment is {alignment!r:.80}, expected a power of two from 8 to 65536"
    raise ModelFileError(message)


def _num_bytes(name: str, code: int, shape: tuple[int, ...]) -> int:
    block = BLOCKS[code]
    if shape[-1] % block.num_values:
        message = f"tensor '{name}' has rows of {shape[-1]}, {block.name} takes whole blocks of "
        message += str(block.num_values)
        raise ModelFileError(message)
    size = math.prod(shape) // block.num_values * block.num_bytes
    if not 0 < size <= MAX_TENSOR_BYTES:
        message = f"tensor '{name}' has shape {list(shape)}, {size} bytes"
        raise ModelFileError(message)
    return size


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
