"""Smaller layers: what counted for nothing is removed without a trace, the rest is fitted."""

import json

import numpy as np
import pytest

import autoglm
from autoglm.compression.structure import fitted
from autoglm.engine.native import NativeModel
from autoglm.errors import UsageError
from autoglm.modelfile.bundle import open_bundle

HEAD_DIM = 8
RECIPE = 'weights = "fp32"\n[structure]\nheads = {}\nchannels = {}\n'


def logits(path):
    return NativeModel(open_bundle(path), pool_tokens=64).logits([1, 2, 3, 4, 5])


def test_what_counts_for_nothing_goes_without_a_trace(parts, source, text, recipe, tmp_path):
    # Head 1 of group 0 and head 2 of group 1, and every fourth channel, reach nothing.
    for layer in range(2):
        output = parts.tensors[f"model.layers.{layer}.self_attn.o_proj.weight"]
        for head in (1, 2):
            output[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] = 0.0
        parts.tensors[f"model.layers.{layer}.mlp.down_proj.weight"][:, ::4] = 0.0
    parts.write(source)
    autoglm.compress(source, recipe('weights = "fp32"\n'), out=tmp_path / "whole")
    mine = recipe(RECIPE.format(0.5, 0.25))
    autoglm.compress(source, mine, out=tmp_path / "small", calibration=text)
    config = open_bundle(tmp_path / "small").config
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (2, 2, HEAD_DIM)
    assert config.intermediate_size == 30
    whole = logits(tmp_path / "whole")
    assert np.abs(logits(tmp_path / "small") - whole).max() < 1e-4 * np.abs(whole).max()
    written = json.loads((tmp_path / "small/config.json").read_text())
    assert written["intermediate_size"] == 30


def test_nothing_removed_is_the_same_model(source, text, recipe, tmp_path):
    autoglm.compress(source, recipe('weights = "fp32"\n'), out=tmp_path / "whole")
    mine = recipe(RECIPE.format(0.0, 0.0))
    autoglm.compress(source, mine, out=tmp_path / "small", calibration=text)
    whole = logits(tmp_path / "whole")
    assert np.abs(logits(tmp_path / "small") - whole).max() < 1e-4 * np.abs(whole).max()


def test_biases_follow_their_rows(parts, source, text, recipe, tmp_path):
    parts.config["attention_bias"] = parts.config["mlp_bias"] = True
    rng = np.random.default_rng(3)
    for name in list(parts.tensors):
        if "_proj.weight" in name:
            size = len(parts.tensors[name])
            bias = name.removesuffix("weight") + "bias"
            parts.tensors[bias] = rng.standard_normal(size).astype(np.float32)
    for layer in range(2):
        output = parts.tensors[f"model.layers.{layer}.self_attn.o_proj.weight"]
        output[:, :HEAD_DIM] = output[:, 3 * HEAD_DIM :] = 0.0
        parts.tensors[f"model.layers.{layer}.mlp.down_proj.weight"][:, 5:15] = 0.0
    parts.write(source)
    autoglm.compress(source, recipe('weights = "fp32"\n'), out=tmp_path / "whole")
    mine = recipe(RECIPE.format(0.5, 0.25))
    autoglm.compress(source, mine, out=tmp_path / "small", calibration=text)
    whole = logits(tmp_path / "whole")
    assert np.abs(logits(tmp_path / "small") - whole).max() < 1e-4 * np.abs(whole).max()


@pytest.mark.parametrize("name", ["prune-structured-30", "prune-structured-60"])
def test_shipped_recipes_make_smaller_models_that_run(source, text, tmp_path, name):
    autoglm.compress(source, name, out=tmp_path / "out", calibration=text)
    config = open_bundle(tmp_path / "out").config
    assert config.intermediate_size == {"30": 28, "60": 16}[name[-2:]]
    assert np.isfinite(logits(tmp_path / "out")).all()


def test_columns_that_stay_are_fitted_to_the_whole():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((12, 12))
    inputs = (rng.standard_normal((500, 12)) @ mixing).astype(np.float32)
    weights = rng.standard_normal((6, 12)).astype(np.float32)
    kept = np.array([0, 2, 3, 5, 7, 8, 9, 11])
    ours = fitted(weights, inputs.T @ inputs, kept)
    best = np.linalg.lstsq(inputs[:, kept], inputs @ weights.T, rcond=None)[0].T

    def error(values):
        return float(np.square(inputs[:, kept] @ values.T - inputs @ weights.T).sum())

    assert error(ours) < 1.05 * error(best)
    assert error(ours) < 0.7 * error(weights[:, kept])


@pytest.mark.parametrize(("heads", "channels", "key"), [(0.99, 0, "heads"), (0, 0.99, "channels")])
def test_dead_layer_is_refused(source, text, recipe, tmp_path, heads, channels, key):
    mine = recipe(RECIPE.format(heads, channels))
    with pytest.raises(UsageError, match=f"'{key}' 0.99 leaves none in a layer"):
        autoglm.compress(source, mine, out=tmp_path / "out", calibration=text)


def test_interrupted_work_goes_on_and_ends_in_the_same_bytes(source, compress_twice):
    compress_twice(source, "prune-structured-30")


def test_groups_that_count_for_nothing_go_with_their_keys(parts, source, text, recipe, tmp_path):
    for layer, group in ((0, 1), (1, 0)):
        output = parts.tensors[f"model.layers.{layer}.self_attn.o_proj.weight"]
        output[:, group * 2 * HEAD_DIM : (group + 1) * 2 * HEAD_DIM] = 0.0
    parts.write(source)
    autoglm.compress(source, recipe('weights = "fp32"\n'), out=tmp_path / "whole")
    mine = recipe('weights = "fp32"\n[structure]\nkv_groups = 0.5\n')
    autoglm.compress(source, mine, out=tmp_path / "small", calibration=text)
    config = open_bundle(tmp_path / "small").config
    assert (config.num_heads, config.num_kv_heads) == (2, 1)
    whole = logits(tmp_path / "whole")
    assert np.abs(logits(tmp_path / "small") - whole).max() < 1e-4 * np.abs(whole).max()


@pytest.mark.parametrize("idle", [0, 1])
def test_layer_that_adds_nothing_goes_without_a_trace(parts, source, text, recipe, tmp_path, idle):
    for module in ("self_attn.o_proj", "mlp.down_proj"):
        parts.tensors[f"model.layers.{idle}.{module}.weight"][...] = 0.0
    parts.write(source)
    autoglm.compress(source, recipe('weights = "fp32"\n'), out=tmp_path / "whole")
    mine = recipe('weights = "fp32"\n[structure]\nlayers = 0.5\n')
    autoglm.compress(source, mine, out=tmp_path / "small", calibration=text)
    assert open_bundle(tmp_path / "small").config.num_layers == 1
    assert json.loads((tmp_path / "small/config.json").read_text())["num_hidden_layers"] == 1
    assert np.array_equal(logits(tmp_path / "small"), logits(tmp_path / "whole"))


def test_all_of_it_at_once_runs(source, text, recipe, tmp_path):
    mine = recipe(
        'weights = "int8"\n[structure]\nlayers = 0.5\nkv_groups = 0.5\n'
        "heads = 0.5\nchannels = 0.5\n"
    )
    autoglm.compress(source, mine, out=tmp_path / "small", calibration=text)
    config = open_bundle(tmp_path / "small").config
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (1, 1, 1)
    assert np.isfinite(logits(tmp_path / "small")).all()


@pytest.mark.parametrize("key", ["kv_groups", "layers"])
def test_model_of_nothing_is_refused(source, text, recipe, tmp_path, key):
    mine = recipe(f'weights = "int8"\n[structure]\n{key} = 0.9\n')
    with pytest.raises(UsageError, match=f"'{key}' 0.9 leaves none"):
        autoglm.compress(source, mine, out=tmp_path / "out", calibration=text)
