"""Integer codes of a matrix and their place in the packed layouts of cpp/kernels/kernels.h.

A grid says which values a matrix may take: a step for every weight, and the range of the codes.
Rounding to nearest and GPTQ both choose codes on a grid; packing stores them with its scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from autoglm import _core
from autoglm.errors import ModelFileError
from autoglm.modelfile.arch import GROUPED_FORMATS, SPARSE_FORMATS, WeightFormat
from autoglm.modelfile.layout import GROUP_SIZE, OFFSET_FORMAT, ROW_BLOCK, TILE_COLS

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]
Granularity = Literal["row", "tensor"]
Item = TypeVar("Item", bound=np.generic)

_INT8_ALIGN = 64
_GROUPED_ALIGN = 2 * GROUP_SIZE
_INT3_LINES = 12
NUM_CODES: dict[WeightFormat, int] = {"int4": 16, "int3": 8}
_PRUNED: dict[WeightFormat, int] = {"sparse8": 80, "half8": 50}
_REGISTER_BYTES = 64  # read past the codes of sparse formats


@dataclass(frozen=True, slots=True)
class Grid:
    """w ~ scale[row] * group_scale[row, column / 64] * code, code in [low, high].

    Without `group_scale`, in int8, groups have no scales of their own.
    """

    scale: Floats  # [rows]
    group_scale: NDArray[np.uint8] | None  # [rows, ceil(cols / 64)]
    low: int
    high: int

    def steps(self, cols: int) -> Floats:
        """The distance of neighbouring values, [rows, cols] or [rows, 1]."""
        if self.group_scale is None:
            return self.scale[:, None]
        steps = self.scale[:, None] * self.group_scale.astype(np.float32)
        return np.repeat(steps, GROUP_SIZE, axis=1)[:, :cols]


def int8_grid(weights: Floats, granularity: Granularity = "row") -> Grid:
    """The largest magnitude of each row, or of the matrix, at code 127."""
    largest = np.abs(weights).max(axis=1)
    if granularity == "tensor":
        largest = np.full_like(largest, largest.max())
    return Grid(largest / np.float32(127.0), None, -127, 127)


def grouped_grid(
    weights: Floats, target: WeightFormat, *, importance: Floats | None = None
) -> Grid:
    """Scales of both levels of int4 or int3 by least squared error.

    `importance` weighs the columns' errors.
    """
    rows, cols = weights.shape
    padded = _pad_columns(weights, GROUP_SIZE)
    weighing = None
    if importance is not None:
        weighing = np.zeros(padded.shape[1], np.float32)
        weighing[:cols] = importance / max(float(importance.max()), 1e-30)
    groups, scale = _core.choose_scales(
        target,
        padded.data,
        rows,
        padded.shape[1],
        importance=None if weighing is None else weighing.data,
    )
    group_scale = np.frombuffer(groups, np.uint8).reshape(rows, -1)
    half = NUM_CODES[target] // 2
    return Grid(np.frombuffer(scale, np.float32), group_scale, -half, half - 1)


def grid_for(
    weights: Floats,
    target: WeightFormat,
    *,
    granularity: Granularity = "row",
    importance: Floats | None = None,
) -> Grid:
    """The grid of an integer format."""
    if target not in GROUPED_FORMATS:
        return int8_grid(weights, granularity)
    return grouped_grid(weights, target, importance=importance)


def round_to_nearest(weights: Floats, grid: Grid) -> Codes:
    """The nearest code of each weight; zero where the step is."""
    steps = grid.steps(weights.shape[1])
    with np.errstate(divide="ignore"):
        inverse = np.where(steps > 0, np.float32(1.0) / steps, np.float32(0.0))
    codes = np.rint(weights * inverse)
    return np.clip(codes, grid.low, grid.high).astype(np.int8)


def values_of(codes: Codes, grid: Grid) -> Floats:
    """The weights that codes stand for."""
    return codes * grid.steps(codes.shape[1])


def pack_codes(codes: Codes, grid: Grid, target: WeightFormat) -> list[bytes]:
    """The parts of the packed matrix, in the order of `_core.packed_shapes`.

    ModelFileError when a format without zeros has no room for all codes that are not zero.
    """
    rows = codes.shape[0]
    padding = -rows % ROW_BLOCK
    scale = np.pad(grid.scale, (0, padding)).astype(np.float32).tobytes()
    codes = np.pad(codes, ((0, padding), (0, 0)))
    if grid.group_scale is None:
        padded = _pad_columns(codes, _INT8_ALIGN)
        blocks = padded.reshape(len(padded) // ROW_BLOCK, ROW_BLOCK, -1, 4)
        in_order = np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))
        if target in SPARSE_FORMATS:
            return [*_without_zeros(in_order, codes.shape, target), scale]
        if target == "block8":
            return [*_without_tiles(in_order), scale]
        return [in_order.tobytes(), scale]
    unsigned = (_pad_columns(codes, _GROUPED_ALIGN) + NUM_CODES[target] // 2).astype(np.uint8)
    num_groups = unsigned.shape[1] // GROUP_SIZE
    groups = np.ones((len(unsigned), num_groups), np.uint8)
    groups[:rows, : grid.group_scale.shape[1]] = grid.group_scale
    groups = groups.reshape(-1, ROW_BLOCK, num_groups).transpose(0, 2, 1)
    # [blocks, pairs of groups, group, line, row, 4]
    lines = unsigned.reshape(-1, ROW_BLOCK, num_groups // 2, 2, GROUP_SIZE // 4, 4)
    lines = lines.transpose(0, 2, 3, 4, 1, 5)
    packed = _int4_lines(lines) if target == "int4" else _int3_lines(lines)
    return [packed, groups.tobytes(), scale]


def _int4_lines(codes: NDArray[np.uint8]) -> bytes:
    """A group in the low nibbles, its neighbour in the high ones."""
    return (codes[:, :, 0] | (codes[:, :, 1] << 4)).tobytes()


def _int3_lines(codes: NDArray[np.uint8]) -> bytes:
    """Twelve lines of both groups; the bits they spare, two a byte, hold the other four."""
    first, second = codes[:, :, 0], codes[:, :, 1]
    packed = (first[:, :, :_INT3_LINES] << 2) | (second[:, :, :_INT3_LINES] << 5)
    first, second = first[:, :, _INT3_LINES:], second[:, :, _INT3_LINES:]
    packed[:, :, 0::3] |= first & 3
    packed[:, :, 1::3] |= second & 3
    packed[:, :, 2::3] |= (first >> 2) | (second >> 2 << 1)
    return packed.tobytes()


def _without_zeros(blocks: Codes, shape: tuple[int, ...], target: WeightFormat) -> list[bytes]:
    """Masks and codes of a sparse format: `blocks` is [blocks, cols / 4, 16, 4]."""
    capacity = _core.packed_shapes(target, *shape)[1][2][1]
    num_blocks = len(blocks)
    flat = blocks.reshape(num_blocks, -1)
    is_kept = flat != 0
    masks = np.packbits(is_kept.reshape(num_blocks, -1, 8), axis=2, bitorder="little")
    counts = is_kept.sum(axis=1)
    if counts.max() > capacity - _REGISTER_BYTES:
        message = (
            f"16 rows hold {counts.max()} weights that are not zero, {target} takes "
            f"{capacity - _REGISTER_BYTES}; prune {_PRUNED[target]} % of each row first"
        )
        raise ModelFileError(message)
    codes = np.zeros((num_blocks, capacity), np.int8)
    codes[np.arange(capacity) < counts[:, None]] = flat[is_kept]
    return [masks.tobytes(), codes.tobytes()]


def _without_tiles(blocks: Codes) -> list[bytes]:
    """Masks and codes of block8: `blocks` is [blocks, cols / 4, 16, 4]."""
    num_blocks = len(blocks)
    tiles = blocks.reshape(num_blocks, -1, ROW_BLOCK * TILE_COLS)
    num_tiles = tiles.shape[1]
    capacity = (num_tiles + 1) // 2
    is_kept = (tiles != 0).any(axis=2)
    is_kept = np.pad(is_kept, ((0, num_blocks % 2), (0, 0))).reshape(-1, 2, num_tiles).any(axis=1)
    most = int(is_kept.sum(axis=1).max())
    if most > capacity:
        message = (
            f"32 rows hold {most} tiles of 64 columns that are not zero, block8 takes {capacity}; "
            "prune half of them first, with the pattern block"
        )
        raise ModelFileError(message)
    masks = np.packbits(np.pad(is_kept, ((0, 0), (0, -num_tiles % 64))), axis=1, bitorder="little")
    # What is left of the room is filled with tiles that are zero.
    order = np.argsort(~is_kept, axis=1, kind="stable")[:, :capacity].repeat(2, axis=0)
    codes = tiles[np.arange(num_blocks)[:, None], order[:num_blocks]]
    return [masks.tobytes(), codes.tobytes()]


def pack_floats(weights: Floats, target: WeightFormat) -> list[bytes]:
    """The parts of a matrix rounded to nearest by the core, in any format."""
    rows, cols = weights.shape
    return _core.pack_rows(target, "F32", np.ascontiguousarray(weights).data, rows, cols)


def pack_offsets(weights: Floats) -> tuple[list[bytes], Floats]:
    """The middle of every group of columns as packed parts, and what of the weights is left."""
    rows, cols = weights.shape
    starts = np.arange(0, cols, GROUP_SIZE)
    highest = np.maximum.reduceat(weights, starts, axis=1)
    lowest = np.minimum.reduceat(weights, starts, axis=1)
    middles: Floats = ((highest + lowest) / np.float32(2.0)).astype(np.float32, copy=False)
    parts = pack_floats(middles, OFFSET_FORMAT)
    offsets = unpack(parts, OFFSET_FORMAT, rows, len(starts))
    return parts, weights - np.repeat(offsets, GROUP_SIZE, axis=1)[:, :cols]


def unpack(parts: list[bytes], target: WeightFormat, rows: int, cols: int) -> Floats:
    """The matrix that packed parts stand for."""
    values = _core.dequantize(target, parts, rows, cols)
    return np.frombuffer(values, np.float32).reshape(rows, cols)


def _pad_columns(matrix: NDArray[Item], multiple: int) -> NDArray[Item]:
    padding = -matrix.shape[1] % multiple
    return np.pad(matrix, ((0, 0), (0, padding))) if padding else np.ascontiguousarray(matrix)
