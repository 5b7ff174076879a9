"""Masks have exact numbers of zeros; SparseGPT follows its definition and errs least."""

import numpy as np
import pytest
from tests.compression.test_gptq import by_definition, problem

from autoglm.compression.codes import int8_grid, values_of
from autoglm.compression.gptq import DAMPING, sparsegpt
from autoglm.compression.pruning import Pruning, kept_weights


def pruning(pattern="unstructured", sparsity=0.5, method="sparsegpt") -> Pruning:
    return Pruning(method=method, pattern=pattern, sparsity=sparsity)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["random", "ties"])
def test_every_row_loses_the_same_exact_number(sparsity, kind):
    scores = np.random.default_rng(0).random((20, 70)).astype(np.float32)
    if kind == "ties":
        scores[:] = 1.0
    kept = kept_weights(scores, pruning(sparsity=sparsity))
    assert set((~kept).sum(axis=1)) == {round(sparsity * 70)}
    if kind == "random" and sparsity > 0:
        assert scores[kept].reshape(20, -1).min(axis=1).min() > 0
        assert (
            np.where(kept, scores, np.inf).min(axis=1) > np.where(kept, -1, scores).max(axis=1)
        ).all()


@pytest.mark.parametrize("cols", [4, 70, 128])
def test_two_of_four_stay(cols):
    scores = np.random.default_rng(1).random((8, cols)).astype(np.float32)
    kept = kept_weights(scores, pruning("2:4"))
    whole = cols // 4 * 4
    assert (kept[:, :whole].reshape(8, -1, 4).sum(axis=2) == 2).all()
    best = np.sort(scores[:, :whole].reshape(8, -1, 4), axis=2)[..., 2:].sum()
    assert np.isclose((scores * kept)[:, :whole].sum(), best)


def test_blocks_go_whole_and_in_exact_numbers():
    scores = np.random.default_rng(2).random((96, 640)).astype(np.float32)
    kept = kept_weights(scores, pruning("block", 0.4))
    tiles = kept.reshape(3, 32, 10, 64)
    assert (tiles == tiles[:, :1, :, :1]).all()
    assert (~tiles[:, 0, :, 0]).sum(axis=1).tolist() == [4, 4, 4]
    short = kept_weights(scores[:70, :600], pruning("block", 0.4))
    assert (~short[::32, ::64]).sum(axis=1).tolist() == [4, 4, 4]


def test_pieces_add_up_to_the_whole():
    scores = np.random.default_rng(3).random((16, 208)).astype(np.float32)
    pieces = [(0, 80), (80, 128), (128, 208)]
    kept = np.concatenate(
        [kept_weights(scores[:, a:b], pruning(sparsity=0.37), first_column=a) for a, b in pieces],
        axis=1,
    )
    whole = kept_weights(scores, pruning(sparsity=0.37))
    assert kept.sum(axis=1).tolist() == whole.sum(axis=1).tolist()


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_sparsegpt_is_its_definition(pattern):
    weights, inputs = problem(24, 64, 400)
    hessian = (inputs.T @ inputs).astype(np.float64)
    damped = hessian + DAMPING * np.diag(hessian).mean() * np.eye(64)
    inverse = np.linalg.inv(damped)
    pivots = np.diag(np.linalg.cholesky(inverse))
    kept = kept_weights(np.square(weights / pivots), pruning(pattern))
    wanted = weights.astype(np.float64)
    for column in range(64):
        value = np.where(kept[:, column], wanted[:, column], 0.0)
        error = (wanted[:, column] - value) / inverse[column, column]
        wanted -= np.outer(error, inverse[column])
        wanted[:, column] = value
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = 1.0  # never used again
        inverse[column, :column] = inverse[:column, column] = 0.0
    ours = sparsegpt(weights, None, hessian.astype(np.float32), pruning(pattern))
    assert np.array_equal(ours != 0, kept)
    assert np.allclose(ours, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())


def test_nothing_pruned_is_rounding_with_error_moved():
    weights, inputs = problem(16, 48, 300)
    # Equal diagonals: the order of activity is the order of the columns.
    inputs /= np.sqrt(np.square(inputs).sum(axis=0))
    hessian = inputs.T @ inputs
    np.fill_diagonal(hessian, 1.0)
    grid = int8_grid(weights)
    wanted = values_of(by_definition(weights, grid, hessian).astype(np.int8), grid)
    ours = sparsegpt(weights, grid, hessian, pruning(sparsity=0.0))
    assert (np.abs(ours - wanted) < 1e-6).all(axis=1).mean() >= 0.9


@pytest.mark.parametrize(
    ("pattern", "cols", "most"),
    [("unstructured", 160, 0.8), ("2:4", 160, 0.8), ("block", 640, 0.95)],
)
def test_error_at_the_output_falls_from_magnitude_to_wanda_to_sparsegpt(pattern, cols, most):
    weights, inputs = problem(64, cols, 1000)
    hessian = inputs.T @ inputs
    norms = np.sqrt(np.diag(hessian))
    by_score = [
        weights * kept_weights(np.abs(weights) * scores, pruning(pattern))
        for scores in (np.ones(cols, np.float32), norms)
    ]
    candidates = [*by_score, sparsegpt(weights, None, hessian, pruning(pattern))]
    magnitude, wanda, updated = (
        float(np.square(inputs @ (values - weights).T).sum()) for values in candidates
    )
    assert updated < most * wanda < most * magnitude
