"""Grids and codes against their definitions in float64, and the packed layouts of the core."""

import numpy as np
import pytest

from autoglm import _core
from autoglm.compression.codes import (
    int4_grid,
    int8_grid,
    pack_codes,
    pack_floats,
    round_to_nearest,
    unpack,
    values_of,
)
from autoglm.compression.pruning import Pruning, kept_weights
from autoglm.errors import ModelFileError

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
def test_int4_codes_are_those_of_the_core(rows, cols):
    weights = matrix(rows, cols)
    grid = int4_grid(weights)
    assert pack_codes(round_to_nearest(weights, grid), grid, "int4") == pack_floats(weights, "int4")


@pytest.mark.parametrize("kind", ["int8", "tensor", "int4", "int3"])
def test_every_weight_gets_the_nearest_value_of_its_grid(kind):
    weights = matrix(48, 192)
    grid = {
        "int8": lambda: int8_grid(weights),
        "tensor": lambda: int8_grid(weights, "tensor"),
        "int4": lambda: int4_grid(weights),
        "int3": lambda: int4_grid(weights, bits=3),
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
    codes = round_to_nearest(weights, int4_grid(weights, bits=3))
    assert set(np.unique(codes)) == set(range(-4, 4))


def test_one_scale_for_the_matrix_is_its_largest_weight_over_127():
    weights = matrix(20, 64)
    grid = int8_grid(weights, "tensor")
    assert set(grid.scale) == {np.abs(weights).max() / np.float32(127)}


def test_importance_lowers_the_error_of_what_counts():
    weights = matrix(64, 256)
    importance = np.exp(3 * np.random.default_rng(5).standard_normal(256)).astype(np.float32)

    def error(grid):
        difference = weights - values_of(round_to_nearest(weights, grid), grid)
        return float((difference**2 * importance).sum())

    assert error(int4_grid(weights, importance=importance)) < 0.97 * error(int4_grid(weights))


@pytest.mark.parametrize("target", ["int8", "int4"])
def test_packed_codes_stand_for_their_values(target):
    weights = matrix(37, 200)
    grid = int8_grid(weights) if target == "int8" else int4_grid(weights, bits=3)
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
    for grid in (int8_grid(weights), int4_grid(weights)):
        assert not values_of(round_to_nearest(weights, grid), grid).any()


@pytest.mark.parametrize(("cols", "bits"), [(60, 4), (64, 5)])
def test_core_refuses_grids_it_does_not_know(cols, bits):
    with pytest.raises(_core.CoreError):
        _core.quantize_int4(np.zeros((2, cols), np.float32).data, 2, cols, bits=bits)
