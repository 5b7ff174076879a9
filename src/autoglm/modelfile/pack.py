"""Checkpoint rows to the bytes of bundle tensors, a few megabytes at a time."""

from __future__ import annotations

import hashlib
import math
import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypedDict

from autoglm import _core
from autoglm.errors import ModelFileError, translate_core_errors
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import ROW_BLOCK, TILE_ROWS, Matrix, Rows, Vector

CHUNK_BYTES = 8 << 20


def pack_matrix(matrix: Matrix, checkpoint: Checkpoint) -> Iterator[tuple[int, list[bytes]]]:
    """Source bytes read and the next bytes of each part, for successive rows of the stack."""
    columns = _columns(matrix, matrix.cols, checkpoint)
    for pieces in matrix.experts:
        dtype, chunks = _source_chunks(matrix, pieces, checkpoint)
        for chunk in chunks:
            with _naming(pieces):
                parts = _core.pack_rows(
                    matrix.weights, dtype, chunk.data, chunk.num_rows, matrix.cols, **columns
                )
            yield chunk.num_read, parts


def float_rows(matrix: Matrix, checkpoint: Checkpoint) -> Iterator[tuple[int, bytes]]:
    """Source bytes read and the next rows of the stack as float32, after all passes.

    They are whole tiles but at the end of a matrix.
    """
    columns = _columns(matrix, matrix.cols, checkpoint)
    for pieces in matrix.experts:
        dtype, chunks = _source_chunks(matrix, pieces, checkpoint)
        for chunk in chunks:
            with _naming(pieces):
                rows = _core.transform_rows(
                    dtype, chunk.data, chunk.num_rows, matrix.cols, **columns
                )
            yield chunk.num_read, rows


def _source_chunks(
    matrix: Matrix, pieces: tuple[Rows, ...], checkpoint: Checkpoint
) -> tuple[str, Iterator[_Chunk]]:
    if matrix.rotated == "rows":
        return "F32", _rotated_rows(pieces, matrix.cols, checkpoint)
    return checkpoint.dtype(pieces), _chunks(pieces, matrix.is_interleaved, checkpoint)


def vector_bytes(vector: Vector, checkpoint: Checkpoint) -> bytes:
    """The float32 values of a small tensor; ModelFileError names one that is not finite."""
    values = _float_bytes(vector.pieces, vector.is_interleaved, checkpoint)
    if vector.is_ones:
        return array("f", [1.0]).tobytes() * (len(values) // 4)
    cols = vector.shape[-1]
    columns = _columns(vector, cols, checkpoint)
    if not columns:
        return values
    return _core.transform_rows("F32", values, len(values) // 4 // cols, cols, **columns)


class _Columns(TypedDict, total=False):
    """What the core does to every row, by column."""

    column_scale: bytes
    signs: bytes


def _columns(tensor: Matrix | Vector, cols: int, checkpoint: Checkpoint) -> _Columns:
    columns = _Columns()
    if tensor.column_gain is not None:
        columns["column_scale"] = _float_bytes((tensor.column_gain,), False, checkpoint)
    if tensor.rotated == "columns":
        columns["signs"] = rotation_signs(cols)
    return columns


def rotation_signs(size: int) -> bytes:
    """The float32 signs of the rotation of a residual stream of this width, always the same."""
    bits = hashlib.shake_256(b"autoglm rotation").digest(size)
    return array("f", [1.0 if byte & 1 else -1.0 for byte in bits]).tobytes()


@contextmanager
def _naming(pieces: tuple[Rows, ...]) -> Iterator[None]:
    """The core's complaints about a tensor, with its name."""
    try:
        with translate_core_errors():
            yield
    except ModelFileError as err:
        names = " or ".join(f"'{rows.source}'" for rows in pieces)
        message = f"tensor {names}: {err}"
        raise ModelFileError(message) from err


class _Chunk(NamedTuple):
    """Rows in the order of the packed matrix, and how many bytes were read for them."""

    num_read: int
    num_rows: int
    data: bytes


def _chunks(
    pieces: tuple[Rows, ...], is_interleaved: bool, checkpoint: Checkpoint
) -> Iterator[_Chunk]:
    rows_of = _interleaved if is_interleaved else _consecutive
    for num_rows, data in rows_of(pieces, checkpoint):
        yield _Chunk(len(data), num_rows, data)


def _rotated_rows(pieces: tuple[Rows, ...], cols: int, checkpoint: Checkpoint) -> Iterator[_Chunk]:
    """float32 chunks of a matrix whose every row depends on all rows: it is held in memory."""
    data = b"".join(data for _, data in _consecutive(pieces, checkpoint))
    num_rows = sum(rows.count for rows in pieces)
    turned = memoryview(
        _core.transform_rows(
            checkpoint.dtype(pieces),
            data,
            num_rows,
            cols,
            signs=rotation_signs(num_rows),
            is_column_wise=True,
        )
    )
    chunk_rows = _chunk_rows(4 * cols)
    for start in range(0, num_rows, chunk_rows):
        count = min(chunk_rows, num_rows - start)
        chunk = bytes(turned[4 * start * cols : 4 * (start + count) * cols])
        yield _Chunk(len(data) * count // num_rows, count, chunk)


def _float_bytes(pieces: tuple[Rows, ...], is_interleaved: bool, checkpoint: Checkpoint) -> bytes:
    dtype = checkpoint.dtype(pieces)
    return b"".join(
        _to_float32(dtype, chunk.data, pieces[0].source)
        for chunk in _chunks(pieces, is_interleaved, checkpoint)
    )


def _consecutive(pieces: tuple[Rows, ...], checkpoint: Checkpoint) -> Iterator[tuple[int, bytes]]:
    """Chunks of whole tiles (the last may be shorter) across the borders of the pieces."""
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
        sides = [memoryview(checkpoint.read_rows(rows, start, count) + padding) for rows in pieces]
        blocks = [
            side[begin : begin + block_bytes]
            for begin in range(0, num_blocks * block_bytes, block_bytes)
            for side in sides
        ]
        yield len(blocks) * ROW_BLOCK, b"".join(blocks)


def _chunk_rows(row_bytes: int) -> int:
    return max(CHUNK_BYTES // row_bytes // TILE_ROWS, 1) * TILE_ROWS


def _to_float32(dtype: str, data: bytes, source: str) -> bytes:
    if dtype == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4] = data[0::2]
        wide[3::4] = data[1::2]
        data = bytes(wide)
    elif dtype == "F16":
        data = array("f", struct.unpack(f"<{len(data) // 2}e", data)).tobytes()
    if not all(map(math.isfinite, memoryview(data).cast("f"))):
        message = f"tensor '{source}' holds NaN or infinity"
        raise ModelFileError(message)
    return data
