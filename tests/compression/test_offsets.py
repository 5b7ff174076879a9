"""Asymmetric codes: offsets of groups of columns, packed, multiplied and run by the engine."""

import numpy as np
import pytest

import autoglm
from autoglm.compression.codes import OFFSET_FORMAT, unpack
from autoglm.compression.matrices import pack_calibrated, packed_product
from autoglm.compression.recipe import parse_recipe
from autoglm.engine.native import NativeModel
from autoglm.errors import ModelConfigError, UsageError
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.layout import Matrix, Rows

SHAPE = (50, 200)
GPTQ = 'weights = "{weights}"\nsymmetric = false\nmethod = "{method}"\n'


@pytest.fixture
def shifted(parts, source):
    """A checkpoint whose weights lie around another value in every matrix and half."""
    rng = np.random.default_rng(5)
    for name, values in parts.tensors.items():
        if values.ndim == 2 and ".layers." in name:
            half = values.shape[1] // 2
            for columns in (slice(0, half), slice(half, None)):
                values[:, columns] += 3.0 * np.float32(rng.standard_normal()) * values.std()
    return parts.write(source)


def matrix_of(weights: str) -> Matrix:
    rows = Rows("m.weight", SHAPE, 0, SHAPE[0])
    return Matrix("model.layers.0.m", SHAPE[1], ((rows,),), weights, has_offset=True)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize(("weights", "steps"), [("int8", 0.02), ("int4", 0.4), ("int3", 0.8)])
def test_product_is_that_of_the_definition(weights, steps, method):
    rng = np.random.default_rng(4)
    values = (rng.standard_normal(SHAPE) + rng.standard_normal((SHAPE[0], 1))).astype(np.float32)
    inputs = rng.standard_normal((300, SHAPE[1])).astype(np.float32)
    recipe = parse_recipe("mine", GPTQ.format(weights=weights, method=method))
    matrix = matrix_of(weights)
    packed = pack_calibrated(values, matrix, recipe, inputs, may_scale=False)
    num_own = len(packed.parts) - 2
    stored = unpack(packed.parts[:num_own], weights, *SHAPE).astype(np.float64)
    # The middle of every 64 columns, on int8 codes with a scale a row.
    for first in range(0, SHAPE[1], 64):
        group = values[:, first : first + 64]
        middle = (group.max(axis=1) + group.min(axis=1)) / 2
        offset = unpack(packed.parts[num_own:], OFFSET_FORMAT, SHAPE[0], 4)[:, first // 64]
        assert np.abs(offset - middle).max() < 0.02
        stored[:, first : first + 64] += offset[:, None]
    wanted = inputs.astype(np.float64) @ stored.T
    got = packed_product(packed.parts, matrix)(inputs)
    assert np.abs(got - wanted).max() < 1e-3 * np.abs(wanted).max()
    assert np.abs(stored - values).mean() < steps


@pytest.mark.parametrize(("weights", "tolerance"), [("int8", 0.03), ("int4", 0.5), ("int3", 0.5)])
@pytest.mark.parametrize("activation_bits", [8, 16])
def test_engine_adds_the_offsets(shifted, recipe, tmp_path, weights, tolerance, activation_bits):
    errors = {}
    autoglm.compress(shifted, recipe('weights = "fp32"\n'), out=tmp_path / "exact")
    exact = logits_of(tmp_path / "exact")
    for symmetric in ("false", "true"):
        content = f'weights = "{weights}"\nsymmetric = {symmetric}\n'
        content += f"activation_bits = {activation_bits}\n"
        autoglm.compress(shifted, recipe(content), out=tmp_path / symmetric)
        difference = logits_of(tmp_path / symmetric) - exact
        errors[symmetric] = np.abs(difference).mean() / np.abs(exact).mean()
    assert errors["false"] < tolerance
    assert weights != "int4" or errors["false"] < errors["true"]
    assert len(open_bundle(tmp_path / "false").packing.offsets) == 8


def logits_of(bundle):
    return NativeModel(open_bundle(bundle), pool_tokens=64).logits([1, 2, 3, 4, 5])


def test_offsets_of_no_matrix_are_refused(source, recipe, tmp_path):
    autoglm.compress(source, recipe('weights = "int8"\nsymmetric = false\n'), out=tmp_path / "out")
    path = tmp_path / "out/config.json"
    path.write_text(path.read_text().replace("model.layers.1.attn.o", "model.layers.7.attn.o"))
    with pytest.raises(ModelConfigError, match=r"'offsets' names 'model\.layers\.7\.attn\.o'"):
        open_bundle(tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        'weights = "bf16"\nsymmetric = false\n',
        'weights = "int8"\nsymmetric = false\n[pruning]\nmethod = "magnitude"\nsparsity = 0.5\n',
    ],
)
def test_offsets_need_codes_and_no_zeros(source, recipe, tmp_path, content):
    with pytest.raises(UsageError, match="'symmetric' false needs integer 'weights'"):
        autoglm.compress(source, recipe(content), out=tmp_path / "out")
