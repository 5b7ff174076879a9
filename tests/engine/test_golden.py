"""A bundle with a golden prompt is refused when it computes something else than it did at first."""

import json

import pytest
from tests.modelfile.conftest import Parts, parts

import autoglm
from autoglm.engine.golden import GOLDEN_NAME, check_golden
from autoglm.engine.native import NativeModel
from autoglm.errors import ModelFileError
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.safetensors import read_header
from autoglm.modelfile.verify import verify

__all__ = ["parts"]


@pytest.fixture
def bundle(parts: Parts, tmp_path):
    """A bundle that keeps its golden prompt."""
    parts.files["tokenizer.json"] = json.dumps(
        {"model": {"type": "WordLevel", "vocab": {"w0": 0, "w1": 1}, "unk_token": "w0"}}
    ).encode()
    # Logits of the size that trained models have, which rounding moves by less than half a nat.
    parts.tensors["lm_head.weight"] *= 0.25
    source = parts.write(tmp_path / "src")
    autoglm.compress(source, "int8-dynamic", out=tmp_path / "out", has_golden=True)
    return tmp_path / "out"


def check(path, precision="exact"):
    opened = open_bundle(path)
    model = NativeModel(opened, pool_tokens=64, precision=precision)
    check_golden(path, model, vocab_size=opened.config.vocab_size, precision=precision)


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_bundle_as_it_was_made_is_taken(bundle, precision):
    verify(bundle)
    check(bundle, precision)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_every_path_gives_the_golden_answer(bundle, monkeypatch, isa):
    from autoglm import _core

    if isa not in _core.cpu_info()["supported"]:
        isa = "scalar"
    monkeypatch.setenv("AUTOGLM_ISA", isa)
    check(bundle)


def test_weights_that_changed_are_refused(bundle):
    weights = bundle / "model.safetensors"
    data = bytearray(weights.read_bytes())
    for layer in range(2):
        tensor = read_header(weights).tensors[f"model.layers.{layer}.mlp.down.weight"]
        codes = slice(tensor.offset, tensor.offset + tensor.nbytes)
        data[codes] = data[codes][::-1]
    weights.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"golden prompt differs by .* nats a token"):
        check(bundle)


def test_load_model_asks(bundle):
    golden = json.loads((bundle / GOLDEN_NAME).read_text())
    golden["logprobs"] = [value - 1 for value in golden["logprobs"]]
    (bundle / GOLDEN_NAME).write_text(json.dumps(golden))
    with pytest.raises(ModelFileError, match=r"differs by 1\.\d+ nats a token"):
        autoglm.load_model(bundle)


def test_bundle_without_one_is_not_asked(bundle):
    (bundle / GOLDEN_NAME).unlink()
    check(bundle)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "'format' is 2"),
        ("ids", [], "'ids' is .*, expected 2 to 64 tokens"),
        ("ids", [1, 10_000], "2 to 64 tokens of the vocabulary"),
        ("ids", [1] * 65, "2 to 64 tokens"),
        ("logprobs", [0.5], "a number for every token but the first"),
        ("logprobs", ["a"], "'logprobs' is .*, expected a list of numbers"),
    ],
)
def test_broken_golden_prompt_is_refused(bundle, key, value, message):
    golden = json.loads((bundle / GOLDEN_NAME).read_text())
    (bundle / GOLDEN_NAME).write_text(json.dumps({**golden, key: value}))
    with pytest.raises(ModelFileError, match=message):
        check(bundle)
