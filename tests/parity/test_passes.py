"""Every pass of a conversion leaves the logits as they are, for every family."""

import json

import numpy as np
import pytest

from autoglm.errors import UnsupportedModelError
from autoglm.modelfile.passes import DEFAULT_PASSES, PASSES

# Float32 sums of other terms in another order.
PASS_TOLERANCE = 1e-5
# Activations meet integer weights as 16-bit integers.
PACKED_TOLERANCE = 1e-3
REQUIRED = tuple(step.name for step in PASSES if step.is_required)
CHAINS = {
    "drop-dead": ("drop-dead",),
    "fold-norm-gain": ("fold-norm-gain",),
    "rotate": ("fold-norm-gain", "rotate"),
    "all": ("drop-dead", "fold-norm-gain", "rotate"),
}


def relative_error(values: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference over the largest reference value."""
    return float(np.abs(values - reference).max() / np.abs(reference).max())


def can_rotate(name: str) -> bool:
    """Glm4 has gains on what is added to the residual stream."""
    return name != "glm4"


@pytest.mark.parametrize("chain", CHAINS)
def test_pass_leaves_the_float_logits(chain, name, make_case, start):
    passes = (*REQUIRED, *CHAINS[chain])
    case = make_case(name)
    before = start(case.bundle("fp32", passes=REQUIRED))().logits(case.ids)
    if "rotate" in passes and not can_rotate(name):
        with pytest.raises(UnsupportedModelError, match="leave out the pass rotate"):
            case.bundle("fp32", passes=passes)
        return
    after = start(case.bundle("fp32", passes=passes))().logits(case.ids)
    assert relative_error(after, before) <= PASS_TOLERANCE


@pytest.mark.parametrize("usual", ["int8", "int4"])
def test_packed_bundle_after_all_passes_gives_the_logits_of_its_weights(
    usual, name, make_case, start
):
    chain = CHAINS["all"] if can_rotate(name) else CHAINS["fold-norm-gain"]
    options = {"passes": (*REQUIRED, *chain)}
    case = make_case(name)
    logits = start(case.bundle(usual, **options), kv_dtype="fp32")().logits(case.ids)
    assert relative_error(logits, case.dequantised_logits(usual, **options)) <= PACKED_TOLERANCE


@pytest.mark.parametrize("usual", ["int8", "int4"])
def test_matrices_of_several_formats_give_the_logits_of_their_weights(
    usual, name, make_case, start
):
    formats = {"*.down": "bf16", "*attn.o": "int8", "model.embed_tokens": "int4"}
    case = make_case(name)
    bundle = case.bundle(usual, formats=formats)
    logits = start(bundle, kv_dtype="fp32")().logits(case.ids)
    wanted = case.dequantised_logits(usual, formats=formats)
    assert relative_error(logits, wanted) <= PACKED_TOLERANCE


def test_bundle_says_how_it_was_made(make_case):
    path = make_case("qwen2").bundle("int4", formats={"*attn.o": "int8"}).path
    packing = json.loads((path / "config.json").read_text())["quantization_config"]
    assert packing["passes"] == list(DEFAULT_PASSES)
    assert packing["formats"] == {f"model.layers.{i}.attn.o": "int8" for i in range(2)}
