"""Scales and fixed ranges of inputs: when they are stored, what they mend, and what is refused."""

import json

import numpy as np
import pytest
from tests.modelfile.conftest import HEAD_DIM

import autoglm
from autoglm.compression.inputs import input_range, input_scale, power_for
from autoglm.compression.recipe import parse_recipe
from autoglm.engine.native import NativeModel
from autoglm.errors import ModelConfigError, ModelFileError, UsageError
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.safetensors import TensorFile

LARGE = "model.layers.0.attn.o"
RECIPE = parse_recipe("int8", 'weights = "int8"\ninput_scales = true\n')
CALIBRATED = 'weights = "int8"\nmethod = "gptq"\nactivations = "static"\ninput_scales = true\n'


@pytest.fixture
def lopsided(parts, source):
    """A checkpoint with one head whose output is a thousand times that of the others."""
    parts.tensors["model.layers.0.self_attn.o_proj.weight"][:, :HEAD_DIM] *= 1000.0
    parts.tensors["model.layers.0.self_attn.v_proj.weight"][:HEAD_DIM] /= 1000.0
    return parts.write(source)


def logits_of(bundle):
    return NativeModel(open_bundle(bundle), pool_tokens=64).logits([1, 2, 3, 4, 5])


def floats_in(bundle, name):
    with TensorFile(bundle / "model.safetensors") as file:
        stored = file.header.tensors[name]
        return np.frombuffer(file.read(stored, 0, stored.nbytes), np.float32)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_small_columns_keep_their_codes_beside_large_ones(lopsided, recipe, tmp_path, weights):
    logits = {}
    for name, content in {
        "exact": 'weights = "fp32"\n',
        "plain": f'weights = "fp32"\n[formats]\n"{LARGE}" = "{weights}"\n',
        "scaled": f'weights = "{weights}"\ninput_scales = true\n[formats]\n'
        f'"*" = "fp32"\n"{LARGE}" = "{weights}"\n',
    }.items():
        autoglm.compress(lopsided, recipe(content), out=tmp_path / name)
        logits[name] = logits_of(tmp_path / name)
    plain, scaled = (np.abs(logits[name] - logits["exact"]).max() for name in ("plain", "scaled"))
    assert scaled < 0.25 * plain
    assert open_bundle(tmp_path / "scaled").packing.inputs == {LARGE: ("scale",)}


def test_columns_alike_get_no_scale(source, recipe, tmp_path):
    autoglm.compress(source, recipe('weights = "int8"\ninput_scales = true\n'), out=tmp_path / "a")
    autoglm.compress(source, recipe('weights = "int8"\n'), out=tmp_path / "b")
    first, second = (tmp_path / name / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_budget_has_room_for_all_that_is_stored(lopsided, text, recipe, tmp_path):
    mine = recipe('weights = "int4"\nsymmetric = false\ninput_scales = true\n')
    least = autoglm.compress(lopsided, mine, out=tmp_path / "least").weights_bytes
    for extra in (2048, 8192, 32768):
        out, budget = tmp_path / str(extra), (least + extra) / 2**20
        made = autoglm.compress(lopsided, mine, out=out, budget_mib=budget, calibration=text)
        assert made.weights_bytes <= least + extra


def test_power_evens_out_what_one_scale_a_row_would_lose():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((64, 256)).astype(np.float32)
    assert power_for(weights, "int8", RECIPE) is None
    weights[:, :64] *= 1000.0
    scale = input_scale(weights, "int8", RECIPE)
    assert scale.max() == 1.0 and np.ptp(scale[:64]) < 0.3
    assert scale[64:].max() < 0.02
    assert power_for(np.zeros((16, 64), np.float32), "int8", RECIPE) is None


@pytest.mark.parametrize("factor", [2.0**100, 2.0**-100])
def test_scales_do_not_depend_on_how_large_all_weights_are(factor):
    weights = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    weights[:, :64] *= 100.0
    found = input_scale(weights * np.float32(factor), "int8", RECIPE)
    assert np.array_equal(found, input_scale(weights, "int8", RECIPE))


@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_weights_that_scales_carry_beyond_all_floats_are_refused(
    parts, source, recipe, tmp_path, granularity
):
    weights = parts.tensors["model.layers.0.self_attn.o_proj.weight"]
    weights *= np.float32(2e35) / np.abs(weights).max()
    weights[:, 1:HEAD_DIM] *= 1000.0
    weights[:, 0] = 0.0
    weights[0, 0] = 3e38
    content = f'weights = "int8"\ngranularity = "{granularity}"\ninput_scales = true\n'
    with pytest.raises(ModelFileError, match=r"o_proj.*3e\+38, too large for scales"):
        autoglm.compress(parts.write(source), recipe(content), out=tmp_path / "out")


@pytest.mark.parametrize("bits", [8, 16])
def test_range_cuts_off_what_costs_more_than_it_brings(bits):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((500, 640)).astype(np.float32)
    inputs[0, 0] = 100.0
    (found,) = input_range(inputs, bits)
    # 16 bits have room for the one that lies outside, 8 bits do better without.
    assert found == 100.0 if bits == 16 else 25.0 <= found < 50.0
    assert input_range(np.zeros((4, 64), np.float32), bits) > 0


def test_interrupted_calibration_meets_the_stored_scales(
    lopsided, recipe, compress_twice, tmp_path
):
    compress_twice(lopsided, recipe(CALIBRATED))
    inputs = open_bundle(tmp_path / "out").packing.inputs
    assert inputs[LARGE] == ("scale", "range")
    assert len(inputs) == 8 and all("range" in parts for parts in inputs.values())
    assert floats_in(tmp_path / "out", "model.layers.1.mlp.down.input_range")[0] > 0
    assert floats_in(tmp_path / "out", f"{LARGE}.input_scale").shape == (4 * HEAD_DIM,)


def test_static_ranges_are_close_to_dynamic_ones_and_cut_off(source, text, recipe, tmp_path):
    for kind in ("static", "dynamic"):
        mine = recipe(f'weights = "int8"\nmethod = "gptq"\nactivations = "{kind}"\n')
        autoglm.compress(source, mine, out=tmp_path / kind, calibration=text)
    static, dynamic = logits_of(tmp_path / "static"), logits_of(tmp_path / "dynamic")
    assert not np.array_equal(static, dynamic)
    # Some inputs lie beyond all that the text has shown.
    assert np.abs(static - dynamic).mean() < 0.05 * np.abs(dynamic).mean()
    name = "model.layers.1.mlp.down.input_range"
    change_floats(tmp_path / "static", name, 1e-3)
    assert np.abs(logits_of(tmp_path / "static") - static).mean() > 0.1 * np.abs(static).mean()
    for wrong in (0.0, -1.0, np.nan, np.inf):
        change_floats(tmp_path / "static", name, wrong)
        with pytest.raises(ModelFileError, match=name):
            logits_of(tmp_path / "static")


def change_floats(bundle, name, value):
    path = bundle / "model.safetensors"
    data = bytearray(path.read_bytes())
    with TensorFile(path) as file:
        begin = file.header.tensors[name].offset
    data[begin : begin + 4] = np.float32(value).tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"model.layers.9.attn.o": ["scale"]}, r"'inputs' names 'model\.layers\.9\.attn\.o'"),
        ({LARGE: ["gain"]}, "expected some of scale, range"),
        ({LARGE: ["range"]}, f"'{LARGE}.input_range' is missing"),
        ({}, f"'{LARGE}.input_scale' is not part"),
    ],
)
def test_what_config_says_of_inputs_must_be_there(lopsided, recipe, tmp_path, inputs, fault):
    mine = recipe('weights = "int8"\ninput_scales = true\n')
    autoglm.compress(lopsided, mine, out=tmp_path / "out")
    path = tmp_path / "out/config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["inputs"] = inputs
    path.write_text(json.dumps(config))
    with pytest.raises(ModelConfigError, match=fault):
        open_bundle(tmp_path / "out")


def test_floats_take_neither(recipe, source, tmp_path):
    for key in ("input_scales = true", 'activations = "static"'):
        with pytest.raises(UsageError, match="need integer 'weights'"):
            autoglm.compress(source, recipe(f'weights = "bf16"\n{key}\n'), out=tmp_path / "out")
