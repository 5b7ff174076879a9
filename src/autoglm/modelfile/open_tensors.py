"""An open file of tensors, whatever its format: reads parts of them, and closes."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from autoglm.modelfile.files import open_regular, read_exactly


class StoredTensor(Protocol):
    """Where a tensor lies; `offset` counts from the start of the file."""

    @property
    def name(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...


class OpenTensors:
    """Owns the descriptor; formats add the header."""

    def __init__(self, path: Path) -> None:
        """Open a regular file."""
        self.path = path
        self._descriptor, self._size = open_regular(path)

    def read(self, tensor: StoredTensor, start: int, num_bytes: int) -> bytes:
        """`num_bytes` of the tensor from its byte `start`."""
        if start < 0 or num_bytes < 0 or start + num_bytes > tensor.nbytes:
            message = f"bytes {start}+{num_bytes} lie outside tensor '{tensor.name}'"
            raise IndexError(message)
        return read_exactly(self._descriptor, num_bytes, tensor.offset + start, self.path)

    def close(self) -> None:
        """Close the file; further reads fail."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
