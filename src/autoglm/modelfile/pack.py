"""Checkpoint rows to the bytes of bundle tensors, a few megabytes at a time."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterator

from autoglm import _core
from autoglm.errors import ModelFileError, translate_core_errors
from autoglm.modelfile.arch import WeightFormat
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import ROW_BLOCK, Matrix, Rows, Vector

CHUNK_BYTES = 8 << 20


def pack_matrix(
    matrix: Matrix, weights: WeightFormat, checkpoint: Checkpoint
) -> Iterator[tuple[int, list[bytes]]]:
    """Source bytes read and the next bytes of each part, for successive rows of the stack."""
    for pieces in matrix.experts:
        dtype = checkpoint.dtype(pieces)
        rows_of = _interleaved if matrix.is_interleaved else _consecutive
        for num_rows, data in rows_of(pieces, checkpoint):
            try:
                with translate_core_errors():
                    parts = _core.pack_rows(weights, dtype, data, num_rows, matrix.cols)
            except ModelFileError as err:
                names = " or ".join(f"'{rows.source}'" for rows in pieces)
                message = f"tensor {names}: {err}"
                raise ModelFileError(message) from err
            yield len(data), parts


def vector_bytes(vector: Vector, checkpoint: Checkpoint) -> bytes:
    """The float32 values of a small tensor; ModelFileError names one that is not finite."""
    rows_of = _interleaved if vector.is_interleaved else _consecutive
    dtype = checkpoint.dtype(vector.pieces)
    return b"".join(
        _to_float32(dtype, data, vector) for _, data in rows_of(vector.pieces, checkpoint)
    )


def _consecutive(pieces: tuple[Rows, ...], checkpoint: Checkpoint) -> Iterator[tuple[int, bytes]]:
    """Chunks of whole row blocks (the last may be shorter) across the borders of the pieces."""
    row_bytes = checkpoint.row_bytes(pieces[0])
    chunk_rows = _chunk_rows(row_bytes)
    pending: list[bytes] = []
    num_pending = 0
    for rows in pieces:
        start = 0
        while start < rows.count:
            count = min(chunk_rows - num_pending, rows.count - start)
            pending.append(checkpoint.read_rows(rows, start, count))
            start += count
            num_pending += count
            if num_pending == chunk_rows:
                yield num_pending, b"".join(pending)
                pending, num_pending = [], 0
    if pending:
        yield num_pending, b"".join(pending)


def _interleaved(pieces: tuple[Rows, ...], checkpoint: Checkpoint) -> Iterator[tuple[int, bytes]]:
    """Chunks in which blocks of 16 rows of each piece alternate; zero rows fill the last one."""
    row_bytes = checkpoint.row_bytes(pieces[0])
    block_bytes = ROW_BLOCK * row_bytes
    chunk_rows = _chunk_rows(row_bytes * len(pieces))
    for start in range(0, pieces[0].count, chunk_rows):
        count = min(chunk_rows, pieces[0].count - start)
        num_blocks = -(-count // ROW_BLOCK)
        padding = bytes(num_blocks * block_bytes - count * row_bytes)
        sides = [checkpoint.read_rows(rows, start, count) + padding for rows in pieces]
        blocks = [
            side[begin : begin + block_bytes]
            for begin in range(0, num_blocks * block_bytes, block_bytes)
            for side in sides
        ]
        yield len(blocks) * ROW_BLOCK, b"".join(blocks)


def _chunk_rows(row_bytes: int) -> int:
    return max(CHUNK_BYTES // row_bytes // ROW_BLOCK, 1) * ROW_BLOCK


def _to_float32(dtype: str, data: bytes, vector: Vector) -> bytes:
    if dtype == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4] = data[0::2]
        wide[3::4] = data[1::2]
        data = bytes(wide)
    elif dtype == "F16":
        data = array("f", struct.unpack(f"<{len(data) // 2}e", data)).tobytes()
    if not all(map(math.isfinite, memoryview(data).cast("f"))):
        message = f"tensor '{vector.pieces[0].source}' holds NaN or infinity"
        raise ModelFileError(message)
    return data
