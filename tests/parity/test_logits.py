"""Logits equal transformers' for every family and weight format, over a thousand positions each."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from autoglm import _core
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.convert import convert

# Float32 sums in another order.
FP32_TOLERANCE = 1e-4
# Activations meet bf16 weights as two bf16 terms, integer weights as 16-bit integers.
PACKED_TOLERANCE = 1e-3
# The default cache: keys and values rounded to eleven bits of mantissa.
HALF_KV_TOLERANCE = 5e-3


def relative_error(values: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference over the largest reference value."""
    return float(np.abs(values - reference).max() / np.abs(reference).max())


def test_float_bundle_gives_the_reference_logits(name, make_case, start):
    case = make_case(name)
    logits = start(case.bundle("fp32"))().logits(case.ids)
    assert relative_error(logits, case.logits) <= FP32_TOLERANCE
    assert np.array_equal(logits.argmax(1), case.logits.argmax(1))


def test_packed_bundle_gives_the_logits_of_its_weights(name, weights, make_case, start):
    case = make_case(name)
    logits = start(case.bundle(weights), kv_dtype="fp32")().logits(case.ids)
    assert relative_error(logits, case.dequantised_logits(weights)) <= PACKED_TOLERANCE


def test_default_cache_costs_little(name, weights, make_case, start):
    case = make_case(name)
    logits = start(case.bundle(weights))().logits(case.ids)
    assert relative_error(logits, case.dequantised_logits(weights)) <= HALF_KV_TOLERANCE


@pytest.mark.parametrize("isa", _core.cpu_info()["supported"])
def test_every_instruction_set_gives_the_reference_logits(isa, make_case, start):
    case = make_case("glm")
    logits = start(case.bundle("fp32"), isa=isa)().logits(case.ids)
    assert relative_error(logits, case.logits) <= FP32_TOLERANCE


@pytest.mark.parametrize("isa", _core.cpu_info()["supported"])
def test_every_instruction_set_gives_the_logits_of_packed_weights(isa, weights, make_case, start):
    case = make_case("glm")
    logits = start(case.bundle(weights), isa=isa, kv_dtype="fp32")().logits(case.ids)
    assert relative_error(logits, case.dequantised_logits(weights)) <= PACKED_TOLERANCE


def test_draft_layers_after_the_last_one_are_left_out(make_case, tmp_path):
    case = make_case("glm4-moe")
    source = tmp_path / "source"
    shutil.copytree(case.checkpoint, source)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.3.eh_proj.weight"] = np.ones((4, 4), np.float32)
    save_file(tensors, source / "model.safetensors")
    convert(source, tmp_path / "out", "int8")
    assert open_bundle(tmp_path / "out").tensors == case.bundle("int8").tensors
