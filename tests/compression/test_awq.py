"""AWQ against its definition in float64: scales, steps, and layers that stay what they were."""

import numpy as np
import pytest

import autoglm
from autoglm.compression.balancing import Balancing
from autoglm.compression.clipping import LARGEST_SCALES, SHARES, clipped_grid, group_moments
from autoglm.compression.codes import NUM_CODES, grouped_grid, round_to_nearest, values_of
from autoglm.compression.forward import LayerForward, product_with
from autoglm.compression.scaling import STEPS, awq_scales
from autoglm.compression.structure import Layer
from autoglm.modelfile.bundle import open_bundle

GROUP = 64


def problem(rows: int, cols: int, num_tokens: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and correlated inputs some of whose columns are far larger than others."""
    rng = np.random.default_rng(rows * cols)
    mixing = rng.standard_normal((cols, cols)) * np.exp(1.5 * rng.standard_normal(cols))
    inputs = rng.standard_normal((num_tokens, cols)) @ mixing / np.sqrt(cols)
    weights = rng.standard_normal((rows, cols)) * np.exp(rng.standard_normal((rows, 1)))
    return weights.astype(np.float32), inputs.astype(np.float32)


def group_error(weights, step, inputs, half) -> float:
    """Of the outputs of one row's group in float64."""
    codes = np.clip(np.rint(weights / step), -half, half - 1) if step > 0 else 0.0 * weights
    return float(np.square(inputs @ (weights - codes * step)).sum())


def steps_by_definition(row, inputs, half) -> np.ndarray:
    """The two levels as chosen for one row: each group by itself, then all together."""
    row, inputs = row.astype(np.float64), inputs.astype(np.float64)
    parts = [slice(start, start + GROUP) for start in range(0, len(row), GROUP)]
    wanted = []
    for part in parts:
        candidates = [np.abs(row[part]).max() / half * float(share) for share in SHARES]
        wanted.append(
            min(candidates, key=lambda d: group_error(row[part], d, inputs[:, part], half))
        )
    options = []
    for largest in LARGEST_SCALES:
        scale = max(wanted) / float(largest)
        options.append([scale * np.clip(np.rint(step / scale), 1, 16) for step in wanted])

    def total(steps):
        return sum(
            group_error(row[part], step, inputs[:, part], half)
            for part, step in zip(parts, steps, strict=True)
        )

    return np.array(min(options, key=total))


@pytest.mark.parametrize("target", ["int4", "int3"])
@pytest.mark.parametrize("cols", [40, 192, 200])
def test_steps_are_those_of_the_definition(target, cols):
    weights, inputs = problem(12, cols)
    half = NUM_CODES[target] // 2
    grid = clipped_grid(weights, group_moments(inputs), NUM_CODES[target])
    steps = grid.steps(cols)[:, ::GROUP]
    wanted = np.array([steps_by_definition(row, inputs, half) for row in weights])
    # Two steps of nearly the same error may change places after float32 sums.
    assert np.isclose(steps, wanted, rtol=1e-5).all(axis=1).mean() >= 0.9


@pytest.mark.parametrize("target", ["int4", "int3"])
def test_outputs_err_less_than_those_of_the_grid_fitted_to_weights(target):
    weights, inputs = problem(64, 256)

    def error(grid):
        difference = values_of(round_to_nearest(weights, grid), grid) - weights
        return float(np.square(inputs @ difference.T).sum())

    clipped = clipped_grid(weights, group_moments(inputs), NUM_CODES[target])
    assert error(clipped) < 0.9 * error(grouped_grid(weights, target))


def test_rows_and_groups_of_zeros_are_survived():
    weights, inputs = problem(4, 128)
    weights[1] = 0.0
    weights[2, :64] = 0.0
    inputs[:, 64:] = 0.0
    grid = clipped_grid(weights, group_moments(inputs), 8)
    values = values_of(round_to_nearest(weights, grid), grid)
    assert np.isfinite(values).all() and not values[1].any() and not values[2, :64].any()


@pytest.mark.parametrize("cols", [64, 100])
def test_moments_are_those_of_each_group(cols):
    _, inputs = problem(3, cols)
    found = group_moments(inputs)
    for number, start in enumerate(range(0, cols, GROUP)):
        part = inputs[:, start : start + GROUP].astype(np.float64)
        size = part.shape[1]
        assert np.allclose(found[number, :size, :size], part.T @ part, rtol=1e-4, atol=1e-2)
        assert not found[number, size:].any() and not found[number, :, size:].any()


def test_scales_are_the_power_of_the_definition():
    weights, inputs = problem(24, 64)

    def rounded(values):
        grid = grouped_grid(values.astype(np.float32), "int3")
        return values_of(round_to_nearest(values, grid), grid)

    activity = np.abs(inputs).mean(axis=0)
    found = awq_scales(weights, activity, inputs.T @ inputs, rounded)
    options = []
    for step in range(STEPS):
        scales = activity.astype(np.float64) ** (step / STEPS)
        scales /= np.sqrt(scales.max() * scales.min())
        difference = rounded((weights * scales).astype(np.float32)) / scales - weights
        options.append((np.square(inputs.astype(np.float64) @ difference.T).sum(), scales))
    best = min(options, key=lambda option: option[0])
    assert np.allclose(found, best[1], rtol=1e-4)
    assert best[0] < 0.9 * options[0][0]


def test_scales_leave_a_layer_with_shared_heads_and_biases_as_it_was(source, recipe, tmp_path):
    autoglm.compress(source, recipe('weights = "fp32"\n'), out=tmp_path / "whole")
    config = open_bundle(tmp_path / "whole").config
    assert config.num_heads > config.num_kv_heads
    rng = np.random.default_rng(2)
    width = -(-config.intermediate_size // 16) * 16
    attended = config.num_heads * config.head_dim
    shapes = {
        "attn.qkv": (attended + 2 * config.num_kv_heads * config.head_dim, config.hidden_size),
        "attn.o": (config.hidden_size, attended),
        "mlp.gate_up": (2 * width, config.hidden_size),
        "mlp.down": (config.hidden_size, config.intermediate_size),
    }
    matrices = {
        name: rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[1]))
        for name, shape in shapes.items()
    }
    matrices["attn.qkv"][-5:] *= 30.0
    vectors = {
        "input_norm.weight": np.exp(rng.standard_normal(config.hidden_size)).astype(np.float32),
        "mlp.norm.weight": np.exp(rng.standard_normal(config.hidden_size)).astype(np.float32),
        "attn.qkv.bias": rng.standard_normal(shapes["attn.qkv"][0]).astype(np.float32),
        "mlp.gate_up.bias": rng.standard_normal(shapes["mlp.gate_up"][0]).astype(np.float32),
    }
    hidden = rng.standard_normal((3, 10, config.hidden_size)).astype(np.float32)
    kept = hidden.copy()
    balancing = Balancing(config, 10, lambda _, weights: np.rint(weights * 4) / 4)
    layer = balancing.balanced("", Layer(matrices, vectors), hidden)
    assert np.array_equal(hidden, kept)
    for name, matrix in matrices.items():
        assert not np.allclose(layer.matrices[name], matrix, rtol=1e-3)

    def outputs(of):
        states = hidden.copy()
        forward = LayerForward(config, 10)
        forward.run("", states, of.vectors.get, lambda name, _: product_with(of.matrices[name]))
        return states

    wanted = outputs(Layer(matrices, vectors))
    assert np.abs(outputs(layer) - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("weights", ["int3", "int8"])
def test_interrupted_work_goes_on_and_ends_in_the_same_bytes(
    source, recipe, compress_twice, weights
):
    compress_twice(source, recipe(f'weights = "{weights}"\nscaling = "awq"\n'))
