"""Strict reader of safetensors files (https://github.com/huggingface/safetensors#format).

Every number of the header is checked before use, and tensor bytes are read on demand, never all at
once. Knows nothing about what the tensors mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from autoglm.errors import ModelFileError
from autoglm.modelfile.files import read_exactly
from autoglm.modelfile.open_tensors import OpenTensors

MAX_HEADER_BYTES = 100_000_000  # as the reference implementation
MAX_TENSORS = 1 << 17
MAX_METADATA = 4096
MAX_TENSOR_BYTES = 1 << 48

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}


def _grammar(pattern: bytes) -> re.Pattern[bytes]:
    """Compile with a space standing for optional JSON whitespace."""
    return re.compile(pattern.replace(b" ", rb"[ \t\r\n]*+"))


_INT = rb"(?:0|[1-9][0-9]{0,15})"
_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+"'
_OPEN = _grammar(rb" { (})?")
_NAME = _grammar(rb' "([!#-\[\]-~]{1,256})" : {')
_DTYPE = rb'dtype" : "(?P<dtype>[A-Z0-9_]{1,16})"'
_SHAPE = rb'shape" : \[ (?P<shape>(?:' + _INT + rb"(?: , " + _INT + rb"){0,7})?+) \]"
_OFFSETS = rb'data_offsets" : \[ (?P<data_offsets>' + _INT + rb" , " + _INT + rb") \]"
_FIELD = _grammar(rb' "(?:' + _DTYPE + rb"|" + _SHAPE + rb"|" + _OFFSETS + rb")")
_PAIR = _grammar(rb" (?P<key>" + _STRING + rb") : (?P<value>" + _STRING + rb")")
_NEXT = _grammar(rb" ([,}])")
_END = _grammar(rb" \Z")


class TensorInfo(NamedTuple):
    """One tensor of a file; `offset` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The checked contents of one file, tensors in the order of their bytes."""

    path: Path
    file_bytes: int
    tensors: Mapping[str, TensorInfo]


class TensorFile(OpenTensors):
    """An open safetensors file; reads slices of tensors."""

    def __init__(self, path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES) -> None:
        super().__init__(path)
        try:
            self.header = _read_header(self._descriptor, path, self._size, max_header_bytes)
        except BaseException:
            self.close()
            raise


def read_header(path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES) -> Header:
    """Read and check the header of one file; ModelFileError names the first fault."""
    with TensorFile(path, max_header_bytes=max_header_bytes) as file:
        return file.header


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size in bytes; ModelFileError for unknown types and absurd sizes."""
    if dtype not in DTYPE_BYTES:
        message = f"has type '{dtype}', known are {', '.join(DTYPE_BYTES)}"
        raise ModelFileError(message)
    size = DTYPE_BYTES[dtype]
    for extent in shape:
        size *= extent
        if size > MAX_TENSOR_BYTES:
            message = f"has shape {list(shape)}, more than {MAX_TENSOR_BYTES} bytes"
            raise ModelFileError(message)
    return size


def _read_header(descriptor: int, path: Path, size: int, max_header_bytes: int) -> Header:
    if size < 8:
        message = f"{path}: has {size} bytes, too few for a safetensors file"
        raise ModelFileError(message)
    length = int.from_bytes(read_exactly(descriptor, 8, 0, path), "little")
    if length > max_header_bytes:
        message = f"{path}: header of {length} bytes, at most {max_header_bytes} are read"
        raise ModelFileError(message)
    if length > size - 8:
        message = (
            f"{path}: header ends at byte {8 + length}, file has {size}; "
            "the download is incomplete, fetch it again"
        )
        raise ModelFileError(message)
    text = read_exactly(descriptor, length, 8, path)
    try:
        tensors = list(_HeaderScanner(text).tensors())
        ordered = _check_layout(tensors, data_start=8 + length, file_bytes=size)
    except ModelFileError as err:
        message = f"{path}: {err}"
        raise ModelFileError(message) from err
    return Header(path, size, ordered)


class _HeaderScanner:
    """Recursive descent without recursion: the grammar has a fixed depth of three."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._position = 0

    def tensors(self) -> Iterator[TensorInfo]:
        """The tensors in header order; `offset` still counts from the end of the header."""
        if not self._text.startswith(b"{"):
            self._fail("a JSON object")
        names: set[bytes] = set()
        if not self._open_object():
            self._expect_end()
            return
        while True:
            name = self._match(_NAME, "a tensor name of 1 to 256 printable ASCII characters")[1]
            if name in names:
                message = f"'{name.decode()}' occurs twice in the header"
                raise ModelFileError(message)
            if len(names) == MAX_TENSORS:
                message = f"header lists more than {MAX_TENSORS} tensors"
                raise ModelFileError(message)
            names.add(name)
            if name == b"__metadata__":
                self._skip_metadata()
            else:
                yield self._tensor(name.decode())
            if self._match(_NEXT, "',' or '}'")[1] == b"}":
                self._expect_end()
                return

    def _tensor(self, name: str) -> TensorInfo:
        fields: dict[str, bytes] = {}
        while True:
            field = self._match(_FIELD, "a valid dtype, shape or data_offsets")
            kind = field.lastgroup or ""
            if kind in fields:
                message = f"tensor '{name}' has '{kind}' twice"
                raise ModelFileError(message)
            fields[kind] = field[kind]
            if self._match(_NEXT, "',' or '}'")[1] == b"}":
                break
        if len(fields) != 3:
            missing = sorted({"dtype", "shape", "data_offsets"} - set(fields))
            message = f"tensor '{name}' lacks {', '.join(missing)}"
            raise ModelFileError(message)
        shape = tuple(int(extent) for extent in fields["shape"].split(b",") if extent)
        begin, end = (int(offset) for offset in fields["data_offsets"].split(b","))
        dtype = fields["dtype"].decode()
        try:
            nbytes = tensor_bytes(dtype, shape)
        except ModelFileError as err:
            message = f"tensor '{name}' {err}"
            raise ModelFileError(message) from err
        if end - begin != nbytes:
            message = (
                f"tensor '{name}' of {dtype} {list(shape)} needs {nbytes} bytes, "
                f"data_offsets [{begin}, {end}] hold {end - begin}"
            )
            raise ModelFileError(message)
        return TensorInfo(name, dtype, shape, begin, nbytes)

    def _skip_metadata(self) -> None:
        self._position -= 1  # back to the brace that _NAME took
        keys: set[bytes] = set()
        if not self._open_object():
            return
        while True:
            pair = self._match(_PAIR, "a string key and a string value in __metadata__")
            if pair["key"] in keys or len(keys) == MAX_METADATA:
                message = f"__metadata__ repeats a key or has more than {MAX_METADATA}"
                raise ModelFileError(message)
            keys.add(pair["key"])
            if self._match(_NEXT, "',' or '}'")[1] == b"}":
                return

    def _open_object(self) -> bool:
        """Consume '{'; False when the object is empty and consumed too."""
        return self._match(_OPEN, "'{'")[1] is None

    def _match(self, pattern: re.Pattern[bytes], expected: str) -> re.Match[bytes]:
        match = pattern.match(self._text, self._position)
        if match is None:
            self._fail(expected)
        self._position = match.end()
        return match

    def _expect_end(self) -> None:
        self._match(_END, "nothing after the closing brace")

    def _fail(self, expected: str) -> NoReturn:
        message = f"header byte {self._position}: expected {expected}"
        raise ModelFileError(message)


def _check_layout(
    tensors: list[TensorInfo], *, data_start: int, file_bytes: int
) -> dict[str, TensorInfo]:
    """Order by offset; the tensors must fill the file without gap, overlap or rest."""
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    position = data_start
    ordered: dict[str, TensorInfo] = {}
    for tensor in tensors:
        begin = data_start + tensor.offset
        end = begin + tensor.nbytes
        if end > file_bytes:
            message = (
                f"tensor '{tensor.name}' ends at byte {end}, file has {file_bytes}; "
                "the download is incomplete, fetch it again"
            )
            raise ModelFileError(message)
        if begin != position:
            fault = "overlaps another tensor" if begin < position else "leaves a gap"
            message = f"tensor '{tensor.name}' begins at byte {begin}, expected {position}: {fault}"
            raise ModelFileError(message)
        ordered[tensor.name] = tensor._replace(offset=begin)
        position = end
    if position != file_bytes:
        message = f"tensors end at byte {position}, file has {file_bytes}"
        raise ModelFileError(message)
    return ordered
