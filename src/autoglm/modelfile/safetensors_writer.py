"""Writer of safetensors files whose tensors all lie on 64-byte boundaries.

All sizes are known first, so the file is reserved at once (a full disk shows before any work) and
tensors may be filled in any order. Tensors named `pad.*` keep the alignment; bundles skip them.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from autoglm.errors import StorageError
from autoglm.modelfile.files import read_exactly
from autoglm.modelfile.safetensors import tensor_bytes

ALIGNMENT = 64
PAD_PREFIX = "pad."
_READ_BYTES = 8 << 20


class TensorSpec(NamedTuple):
    """What will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def storage_error(path: Path, err: OSError) -> StorageError:
    """The public error for a failed write to `path`."""
    reason = err.strerror or str(err)
    if err.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        reason += "; free some space or choose another place"
    return StorageError(f"{path}: writing failed: {reason}")


def file_bytes(specs: Sequence[TensorSpec]) -> int:
    """The size of a file of these tensors."""
    return _lay_out(specs)[2]


class SafetensorsWriter:
    """One file under construction; `append` fills each tensor from its start to its end."""

    def __init__(
        self, path: Path, specs: Sequence[TensorSpec], *, is_resumed: bool = False
    ) -> None:
        """Create `path` with the space for all tensors; StorageError when that fails.

        `is_resumed` keeps what an earlier writer of the same specs has left at `path`.
        """
        header, self._regions, total = _lay_out(specs)
        self._ranges = dict(self._regions)
        self._path = path
        self.num_bytes = total
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if is_resumed else os.O_EXCL)
        try:
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as err:
            raise storage_error(path, err) from err
        try:
            os.posix_fallocate(self._descriptor, 0, total)
            self._write(header, 0)
        except OSError as err:
            self.close()
            raise storage_error(path, err) from err

    def append(self, name: str, data: bytes) -> None:
        """Write the next bytes of tensor `name`."""
        position, end = self._regions[name]
        if position + len(data) > end:
            message = f"tensor '{name}' takes {end - position} more bytes, got {len(data)}"
            raise ValueError(message)
        try:
            self._write(data, position)
        except OSError as err:
            raise storage_error(self._path, err) from err
        self._regions[name] = position + len(data), end

    def skip(self, name: str) -> None:
        """Take tensor `name` as complete, as an earlier writer left it."""
        end = self._ranges[name][1]
        self._regions[name] = end, end

    def read(self, name: str) -> Iterator[bytes]:
        """The bytes in the file of tensor `name`, a few megabytes at a time."""
        position, end = self._ranges[name]
        while position < end:
            data = read_exactly(
                self._descriptor, min(_READ_BYTES, end - position), position, self._path
            )
            yield data
            position += len(data)

    def sync(self) -> None:
        """Wait until the disk has what was written.

        The page cache lets go of it: written pages are small and scattered, and reading the model
        anew gets large ones, from which decoding is up to a tenth faster.
        """
        try:
            os.fsync(self._descriptor)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as err:
            raise storage_error(self._path, err) from err

    def finish(self) -> None:
        """Check that every tensor is complete and wait until the disk has it."""
        for name, (position, end) in self._regions.items():
            if position != end:
                message = f"tensor '{name}' lacks {end - position} bytes"
                raise ValueError(message)
        self.sync()

    def close(self) -> None:
        """Close the file, complete or not."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _lay_out(specs: Sequence[TensorSpec]) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Header bytes, absolute byte range of each tensor, size of the file."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    ranges: dict[str, tuple[int, int]] = {}
    position = 0
    for spec in specs:
        nbytes = tensor_bytes(spec.dtype, spec.shape)
        ranges[spec.name] = position, position + nbytes
        entries[spec.name] = _entry(spec.dtype, spec.shape, position, nbytes)
        position += nbytes
        padding = -position % ALIGNMENT
        if padding:
            entries[f"{PAD_PREFIX}{len(entries)}"] = _entry("U8", (padding,), position, padding)
            position += padding
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    start = 8 + len(text)
    header = len(text).to_bytes(8, "little") + text
    absolute = {name: (start + begin, start + end) for name, (begin, end) in ranges.items()}
    return header, absolute, start + position


def _entry(dtype: str, shape: tuple[int, ...], begin: int, nbytes: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + nbytes]}
