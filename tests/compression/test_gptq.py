"""GPTQ against its definition in float64, and what it is for: less error at the output."""

import numpy as np
import pytest

from autoglm.compression.codes import grid_for, round_to_nearest, values_of
from autoglm.compression.gptq import DAMPING, gptq, inverse_factor


def problem(rows: int, cols: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and inputs whose columns are correlated and of different sizes."""
    rng = np.random.default_rng(rows + cols)
    mixing = rng.standard_normal((cols, cols)) * np.exp(rng.standard_normal(cols))
    inputs = rng.standard_normal((num_tokens, cols)) @ mixing / np.sqrt(cols)
    weights = rng.standard_normal((rows, cols)) / np.sqrt(cols)
    return weights.astype(np.float32), inputs.astype(np.float32)


def by_definition(weights, grid, hessian, damping=DAMPING) -> np.ndarray:
    """Optimal brain quantisation in a fixed order, as published: round the next column, move its
    error by the inverse Hessian of the columns left, and take the column out of that inverse."""
    hessian = hessian.astype(np.float64)
    order = list(np.argsort(-np.diag(hessian), kind="stable"))
    damped = hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    inverse = np.linalg.inv(damped)
    weights = weights.astype(np.float64)
    steps = np.broadcast_to(grid.steps(weights.shape[1]), weights.shape).astype(np.float64)
    codes = np.zeros(weights.shape, np.int64)
    for column in order:
        codes[:, column] = np.clip(
            np.rint(weights[:, column] / steps[:, column]), grid.low, grid.high
        )
        error = (weights[:, column] - codes[:, column] * steps[:, column]) / inverse[column, column]
        weights -= np.outer(error, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = 1.0  # never used again
    return codes


@pytest.mark.parametrize("cols", [7, 64, 130])
@pytest.mark.parametrize("target", ["int3", "int4", "int8"])
def test_codes_are_those_of_the_definition(target, cols):
    weights, inputs = problem(24, cols, 400)
    hessian = inputs.T @ inputs
    grid = grid_for(weights, target)
    wanted = by_definition(weights, grid, hessian)
    # float32 sums can turn a tie over, which changes what comes after it in that row.
    is_same = (gptq(weights, grid, hessian) == wanted).all(axis=1)
    assert is_same.mean() >= 0.9


@pytest.mark.parametrize("target", ["int3", "int4"])
def test_output_error_is_well_below_that_of_rounding(target):
    weights, inputs = problem(32, 128, 1000)
    grid = grid_for(weights, target)

    def error(codes):
        return float(np.square(inputs @ (values_of(codes, grid) - weights).T).sum())

    assert error(gptq(weights, grid, inputs.T @ inputs)) < 0.6 * error(
        round_to_nearest(weights, grid)
    )


def test_independent_inputs_leave_nothing_to_move():
    weights, _ = problem(16, 64, 1)
    grid = grid_for(weights, "int4")
    hessian = np.diag(np.arange(1, 65, dtype=np.float32))
    assert np.array_equal(gptq(weights, grid, hessian), round_to_nearest(weights, grid))


def test_inputs_that_are_always_zero_are_survived():
    weights, inputs = problem(16, 64, 200)
    inputs[:, 10:20] = 0.0
    grid = grid_for(weights, "int4")
    codes = gptq(weights, grid, inputs.T @ inputs)
    assert np.array_equal(codes[:, 10:20], round_to_nearest(weights, grid)[:, 10:20])


def test_no_inputs_at_all_is_rounding():
    weights, _ = problem(4, 70, 1)
    grid = grid_for(weights, "int4")
    codes = gptq(weights, grid, np.zeros((70, 70), np.float32))
    assert np.array_equal(codes, round_to_nearest(weights, grid))


@pytest.mark.parametrize("size", [1, 5, 200])
def test_factor_is_that_of_the_inverse(size):
    rng = np.random.default_rng(size)
    root = rng.standard_normal((size, size + 3))
    matrix = root @ root.T + np.eye(size)
    factor = inverse_factor(matrix)
    assert np.array_equal(factor, np.triu(factor))
    found, inverse = factor.astype(np.float64), np.linalg.inv(matrix)
    assert np.abs(found.T @ found - inverse).max() < 1e-4 * np.abs(inverse).max()


def test_matrix_that_float32_cannot_factor_is_factored_in_float64():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((200, 20))
    matrix = root @ root.T + 1e-7 * np.eye(200)
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(matrix.astype(np.float32))
    factor, inverse = inverse_factor(matrix).astype(np.float64), np.linalg.inv(matrix)
    assert np.abs(factor.T @ factor - inverse).max() < 1e-4 * np.abs(inverse).max()
