"""Values of the block formats of GGUF tensors, as float32.

A block is a run of a row with scales of its own; layouts are those of ggml's ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_SUPER = 256


class Block(NamedTuple):
    """A format: its name, values and bytes of a block, and blocks [n, bytes] to [n, values]."""

    name: str
    num_values: int
    num_bytes: int
    values: Callable[[Bytes], Floats]


def dequantise(block: Block, data: bytes) -> Floats:
    """The values of whole blocks, one after the other."""
    blocks = np.frombuffer(data, np.uint8).reshape(-1, block.num_bytes)
    with np.errstate(invalid="ignore", over="ignore"):  # scales may be NaN; packing names it
        return block.values(blocks).reshape(-1)


def _f32(blocks: Bytes) -> Floats:
    return blocks.view("<f4").astype(np.float32)


def _f16(blocks: Bytes) -> Floats:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _halves(blocks: Bytes, start: int) -> Floats:
    """The half at byte `start` of each block, [n, 1]."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> NDArray[np.int32]:
    """All low nibbles of each block, then all high ones."""
    both = np.concatenate([packed & 15, packed >> 4], axis=-1)
    return both.astype(np.int32)


def _fifth_bits(packed: Bytes) -> NDArray[np.int32]:
    bits = np.unpackbits(np.ascontiguousarray(packed), axis=-1, bitorder="little")
    return bits.astype(np.int32) << 4


def _q8_0(blocks: Bytes) -> Floats:
    return _halves(blocks, 0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)


def _q4_0(blocks: Bytes) -> Floats:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]) - 8).astype(np.float32)


def _q4_1(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 4:]).astype(np.float32)
    return _halves(blocks, 0) * codes + _halves(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _halves(blocks, 0) * (codes - 16).astype(np.float32)


def _q5_1(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _halves(blocks, 0) * codes.astype(np.float32) + _halves(blocks, 2)


def _six_bit_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """Scales and minima of the eight parts of a super-block, [n, 8] each, from 12 bytes."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _parts_of_32(packed: Bytes) -> NDArray[np.int32]:
    """Nibbles of 128 bytes as [n, 8, 32]: of each 32 bytes the low ones, then the high ones."""
    quarters = packed.reshape(-1, 4, 1, 32)
    both = np.concatenate([quarters & 15, quarters >> 4], axis=2)
    return both.reshape(-1, 8, 32).astype(np.int32)


def _scaled_parts(blocks: Bytes, codes: NDArray[np.int32]) -> Floats:
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    steps = (_halves(blocks, 0) * scales)[:, :, None]
    offsets = (_halves(blocks, 2) * minima)[:, :, None]
    return (steps * codes.astype(np.float32) - offsets).reshape(-1, _SUPER)


def _q4_k(blocks: Bytes) -> Floats:
    return _scaled_parts(blocks, _parts_of_32(blocks[:, 16:144]))


def _q5_k(blocks: Bytes) -> Floats:
    shifts = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth = (blocks[:, None, 16:48] >> shifts) & 1
    return _scaled_parts(blocks, _parts_of_32(blocks[:, 48:176]) | (fifth.astype(np.int32) << 4))


def _q6_k(blocks: Bytes) -> Floats:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    nibbles = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3
    codes = (nibbles | (high << 4)).astype(np.int32) - 32
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    steps = _halves(blocks, 208) * scales
    values: Floats = (steps[:, :, None] * codes.reshape(-1, 16, 16)).astype(np.float32)
    return values.reshape(-1, _SUPER)


# By the number of the type in the file.
BLOCKS: Mapping[int, Block] = {
    0: Block("F32", 1, 4, _f32),
    1: Block("F16", 1, 2, _f16),
    2: Block("Q4_0", 32, 18, _q4_0),
    3: Block("Q4_1", 32, 20, _q4_1),
    6: Block("Q5_0", 32, 22, _q5_0),
    7: Block("Q5_1", 32, 24, _q5_1),
    8: Block("Q8_0", 32, 34, _q8_0),
    12: Block("Q4_K", _SUPER, 144, _q4_k),
    13: Block("Q5_K", _SUPER, 176, _q5_k),
    14: Block("Q6_K", _SUPER, 210, _q6_k),
    30: Block("BF16", 1, 2, _bf16),
}
BLOCK_OF = {block.name: block for block in BLOCKS.values()}
