"""Grids and codes against their definitions in float64, and the packed layouts of the core."""

import numpy as np
import pytest

from autoglm import _core
from autoglm.compression.codes import (
    grid_for,
    grouped_grid,
    int8_grid,
    pack_codes,
    pack_floats,
    round_to_nearest,
    unpack,
    values_of,
)
from autoglm.compression.pruning import Pruning, kept_weights
from autoglm.errors import ModelFileError
from autoglm.modelfile.arch import GROUPED_FORMATS

SHAPES = [(16, 128), (37, 200), (1, 1), (70, 64)]


def matrix(rows: int, cols: int) -> np.ndarray:
    rng = np.random.default_rng(rows * cols)
    scales = np.exp(rng.standard_normal((rows, 1)))
    return (rng.standard_normal((rows, cols)) * scales).astype(np.float32)


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_int8_codes_are_those_of_the_core(rows, cols):
    weights = matrix(rows, cols)
    grid = int8_grid(weights)
    assert pack_codes(round_to_nearest(weights, grid), grid, "int8") == pack_floats(weights, "int8")


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
@pytest.mark.parametrize("target", GROUPED_FORMATS)
def test_codes_in_groups_are_those_of_the_core(rows, cols, target):
    weights = matrix(rows, cols)
    grid = grouped_grid(weights, target)
    assert pack_codes(round_to_nearest(weights, grid), grid, target) == pack_floats(weights, target)


@pytest.mark.parametrize("isa", _core.cpu_info()["supported"])
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_int3_is_what_its_bits_say(rows, cols, isa):
    weights = matrix(rows, cols)
    parts = pack_floats(weights, "int3")
    wanted = int3_values(parts, rows, cols)
    found = unpack(parts, "int3", rows, cols)
    assert np.array_equal(found, wanted.astype(np.float32))
    for num_tokens in (1, 3, 40):
        # Activations that are their own codes of 16 bits: products are exact but for float scales.
        x = np.random.default_rng(cols).integers(-127, 128, (num_tokens, cols)).astype(np.float32)
        x[:, 0] = 32384.0
        got = _core.gemm("int3", parts, rows, x, isa=isa)
        exact = x.astype(np.float64) @ wanted.T
        largest = np.abs(x).astype(np.float64) @ np.abs(wanted).T
        assert np.all(np.abs(got - exact) <= 2.0**-22 * largest)


def int3_values(parts: list[bytes], rows: int, cols: int) -> np.ndarray:
    """By the definition in cpp/kernels/kernels.h, bit by bit in float64."""
    blocks, pairs = -(-rows // 16), -(-cols // 128)
    lines = np.frombuffer(parts[0], np.uint8).reshape(blocks, pairs, 12, 16, 4)
    groups = np.frombuffer(parts[1], np.uint8).reshape(blocks, 2 * pairs, 16)
    scale = np.frombuffer(parts[2], np.float32)
    values = np.zeros((rows, cols))
    for row, col in np.ndindex(rows, cols):
        block, lane = divmod(row, 16)
        pair, group, within = col // 128, col // 64 % 2, col % 64
        line, byte = divmod(within, 4)
        if line < 12:
            code = lines[block, pair, line, lane, byte] >> (5 if group else 2) & 7
        else:
            spare = lines[block, pair, 3 * (line - 12) : 3 * (line - 12) + 3, lane, byte]
            code = (spare[group] & 3) | (spare[2] >> group & 1) << 2
        step = np.float64(scale[row]) * np.float64(groups[block, col // 64, lane])
        values[row, col] = step * (int(code) - 4)
    return values


@pytest.mark.parametrize("kind", ["int8", "tensor", "int4", "int3"])
def test_every_weight_gets_the_nearest_value_of_its_grid(kind):
    weights = matrix(48, 192)
    grid = {
        "int8": lambda: int8_grid(weights),
        "tensor": lambda: int8_grid(weights, "tensor"),
        "int4": lambda: grouped_grid(weights, "int4"),
        "int3": lambda: grouped_grid(weights, "int3"),
    }[kind]()
    codes = np.arange(grid.low, grid.high + 1, dtype=np.float64)
    steps = np.broadcast_to(grid.steps(192), weights.shape).astype(np.float64)
    distances = np.abs(weights[..., None] - steps[..., None] * codes)
    nearest = distances.min(axis=-1)
    chosen = np.abs(weights - values_of(round_to_nearest(weights, grid), grid).astype(np.float64))
    # A tie may go either way after float32 products.
    assert np.allclose(chosen, nearest, rtol=0, atol=1e-5 * steps.max())


def test_three_bits_use_eight_values():
    weights = matrix(16, 128)
    codes = round_to_nearest(weights, grouped_grid(weights, "int3"))
    assert set(np.unique(codes)) == set(range(-4, 4))


def test_one_scale_for_the_matrix_is_its_largest_weight_over_127():
    weights = matrix(20, 64)
    grid = int8_grid(weights, "tensor")
    assert set(grid.scale) == {np.abs(weights).max() / np.float32(127)}


@pytest.mark.parametrize("target", GROUPED_FORMATS)
def test_importance_lowers_the_error_of_what_counts(target):
    weights = matrix(64, 256)
    importance = np.exp(3 * np.random.default_rng(5).standard_normal(256)).astype(np.float32)

    def error(grid):
        difference = weights - values_of(round_to_nearest(weights, grid), grid)
        return float((difference**2 * importance).sum())

    weighed = grouped_grid(weights, target, importance=importance)
    assert error(weighed) < 0.97 * error(grouped_grid(weights, target))


@pytest.mark.parametrize("target", ["int8", *GROUPED_FORMATS])
def test_packed_codes_stand_for_their_values(target):
    weights = matrix(37, 200)
    grid = grid_for(weights, target)
    codes = round_to_nearest(weights, grid)
    stored = unpack(pack_codes(codes, grid, target), target, 37, 200)
    assert np.allclose(stored, values_of(codes, grid), rtol=1e-6, atol=0)


SPARSE = [
    ("sparse8", "unstructured", 0.8),
    ("half8", "unstructured", 0.5),
    ("half8", "2:4", 0.5),
    ("block8", "block", 0.5),
    ("block8", "block", 0.75),
]


@pytest.mark.parametrize(("target", "pattern", "sparsity"), SPARSE)
@pytest.mark.parametrize(("rows", "cols"), [(16, 128), (37, 201), (1, 5), (70, 4200)])
def test_sparse_codes_are_those_of_the_core(rows, cols, target, pattern, sparsity):
    weights = pruned(matrix(rows, cols), pattern, sparsity)
    grid = int8_grid(weights)
    parts = pack_codes(round_to_nearest(weights, grid), grid, target)
    assert parts == pack_floats(weights, target)
    dense = unpack(pack_floats(weights, "int8"), "int8", rows, cols)
    assert np.array_equal(unpack(parts, target, rows, cols), dense)


@pytest.mark.parametrize(
    ("target", "message"),
    [("sparse8", "448; prune 80"), ("half8", "1024"), ("block8", "1; prune half")],
)
def test_too_many_codes_for_a_sparse_format_are_refused(target, message):
    weights = matrix(16, 128)
    grid = int8_grid(weights)
    with pytest.raises(ModelFileError, match=f"{target} takes {message}"):
        pack_codes(round_to_nearest(weights, grid), grid, target)
    with pytest.raises(_core.CoreError, match=f"{target} takes {message}"):
        pack_floats(weights, target)


@pytest.mark.parametrize("isa", ["scalar", "", "avx2"])
@pytest.mark.parametrize("num_tokens", [1, 3, 20])
@pytest.mark.parametrize(("target", "pattern", "sparsity"), SPARSE)
def test_products_with_sparse_codes_are_those_of_dense_ones(
    isa, num_tokens, target, pattern, sparsity
):
    if isa and isa not in _core.cpu_info()["supported"]:
        isa = "scalar"
    weights = pruned(matrix(48, 300), pattern, sparsity)
    x = np.random.default_rng(2).standard_normal((num_tokens, 300)).astype(np.float32)
    dense = _core.gemm("int8", pack_floats(weights, "int8"), 48, x, isa=isa)
    assert np.array_equal(_core.gemm(target, pack_floats(weights, target), 48, x, isa=isa), dense)


def pruned(weights: np.ndarray, pattern: str, sparsity: float) -> np.ndarray:
    pruning = Pruning(method="magnitude", pattern=pattern, sparsity=sparsity)
    return weights * kept_weights(np.abs(weights), pruning)


def test_zeros_stay_zeros():
    weights = np.zeros((3, 70), np.float32)
    for grid in (grid_for(weights, target) for target in ("int8", *GROUPED_FORMATS)):
        assert not values_of(round_to_nearest(weights, grid), grid).any()


@pytest.mark.parametrize(
    ("cols", "target", "message"), [(60, "int4", "multiple of 64"), (64, "int8", "int8 has no")]
)
def test_core_refuses_grids_it_does_not_know(cols, target, message):
    with pytest.raises(_core.CoreError, match=message):
        _core.choose_scales(target, np.zeros((2, cols), np.float32).data, 2, cols)
