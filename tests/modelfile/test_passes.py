"""Passes and formats of a conversion: what they leave out, and what is refused."""

import json

import numpy as np
import pytest

from autoglm.cli.main import main
from autoglm.errors import ModelConfigError, UsageError
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.convert import convert
from autoglm.modelfile.passes import DEFAULT_PASSES
from autoglm.modelfile.safetensors import TensorFile

MERGES = ("merge-qkv", "merge-gate-up")


def names(bundle) -> list[str]:
    return [tensor.name for tensor in open_bundle(bundle).tensors]


def floats(bundle, name: str) -> np.ndarray:
    with TensorFile(bundle / "model.safetensors") as file:
        tensor = file.header.tensors[name]
        return np.frombuffer(file.read(tensor, 0, tensor.nbytes), np.float32)


def with_biases(parts, *, value: float):
    """The checkpoint with q, k, v and o biases of this value."""
    parts.config["attention_bias"] = True
    for name, tensor in list(parts.tensors.items()):
        if "self_attn" in name:
            bias = np.full(len(tensor), value, np.float32)
            parts.tensors[name.replace("weight", "bias")] = bias
    return parts


def test_biases_of_zeros_are_dropped_and_others_kept(parts, tmp_path):
    with_biases(parts, value=0.0)
    parts.tensors["model.layers.1.self_attn.k_proj.bias"][3] = 1.0
    convert(parts.write(tmp_path / "src"), tmp_path / "out", "int8")
    biases = [name for name in names(tmp_path / "out") if name.endswith(".bias")]
    assert biases == ["model.layers.1.attn.qkv.bias"]


def test_biases_of_zeros_stay_without_the_pass(parts, tmp_path):
    source = with_biases(parts, value=0.0).write(tmp_path / "src")
    convert(source, tmp_path / "out", "int8", passes=MERGES)
    assert len([name for name in names(tmp_path / "out") if name.endswith(".bias")]) == 4


def test_a_bias_may_be_absent_only_after_the_pass(parts, tmp_path):
    source = with_biases(parts, value=0.0).write(tmp_path / "src")
    convert(source, tmp_path / "out", "int8")
    path = tmp_path / "out/config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["passes"] = list(MERGES)
    path.write_text(json.dumps(config))
    with pytest.raises(ModelConfigError, match=r"bias' is missing"):
        open_bundle(tmp_path / "out")


def test_folded_gains_are_ones_and_a_tied_head_keeps_its_own(parts, tmp_path):
    passes = (*DEFAULT_PASSES, "fold-norm-gain")
    convert(parts.write(tmp_path / "untied"), tmp_path / "a", "fp32", passes=passes)
    parts.config["tie_word_embeddings"] = True
    del parts.tensors["lm_head.weight"]
    convert(parts.write(tmp_path / "tied"), tmp_path / "b", "fp32", passes=passes)
    for bundle in (tmp_path / "a", tmp_path / "b"):
        for layer in range(2):
            for norm in ("input_norm", "mlp.norm"):
                gain = floats(bundle, f"model.layers.{layer}.{norm}.weight")
                assert np.array_equal(gain, np.ones(32, np.float32))
    assert np.array_equal(floats(tmp_path / "a", "model.norm.weight"), np.ones(32, np.float32))
    final = floats(tmp_path / "b", "model.norm.weight")
    assert np.array_equal(final, parts.tensors["model.norm.weight"])


def test_unread_tensors_need_drop_dead(parts, tmp_path):
    parts.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    source = parts.write(tmp_path / "src")
    with pytest.raises(UsageError, match=r"inv_freq.*drop-dead"):
        convert(source, tmp_path / "out", "int8", passes=MERGES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("passes", "reason"),
    [
        (("merge-qkv",), "without the pass merge-gate-up"),
        ((*MERGES, "polish"), "unknown pass 'polish'; there are merge-qkv"),
        ((*MERGES, "rotate"), "builds on fold-norm-gain"),
    ],
)
def test_passes_that_cannot_run_are_named(passes, reason, parts, tmp_path):
    with pytest.raises(UsageError, match=reason):
        convert(parts.write(tmp_path / "src"), tmp_path / "out", "int8", passes=passes)


def test_the_last_matching_format_counts(parts, tmp_path):
    formats = {"*.attn.*": "int8", "*.0.attn.o": "bf16"}
    convert(parts.write(tmp_path / "src"), tmp_path / "out", "int4", formats=formats)
    dtypes = {tensor.name: tensor.dtype for tensor in open_bundle(tmp_path / "out").tensors}
    assert dtypes["model.layers.0.attn.o.weight"] == "BF16"
    assert dtypes["model.layers.1.attn.o.weight"] == "I8"
    assert dtypes["model.layers.1.mlp.down.weight"] == "U8"


def test_a_format_for_no_matrix_is_refused(parts, tmp_path):
    with pytest.raises(UsageError, match=r"no matrix of this model is called 'lm_tail'"):
        convert(
            parts.write(tmp_path / "src"), tmp_path / "out", "int4", formats={"lm_tail": "int8"}
        )


@pytest.mark.parametrize("formats", [{"lm_head": "int3"}, {"lm_tail": "int8"}, {"a\nb": "int8"}, 3])
def test_formats_in_a_config_that_cannot_be_are_refused_in_one_line(formats, parts, tmp_path):
    convert(parts.write(tmp_path / "src"), tmp_path / "out", "int8")
    path = tmp_path / "out/config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["formats"] = formats
    path.write_text(json.dumps(config))
    with pytest.raises(ModelConfigError) as caught:
        open_bundle(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_command_takes_passes_and_formats(parts, tmp_path, capsys):
    source = str(parts.write(tmp_path / "src"))
    options = ["--passes", "default,fold-norm-gain", "--skip-pass", "drop-dead", "--json"]
    options += ["--weights", "int4", "--format", "lm_head=int8"]
    assert main(["convert", source, str(tmp_path / "out"), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passes"] == [*MERGES, "fold-norm-gain"]
    assert dict(open_bundle(tmp_path / "out").packing.formats) == {"lm_head": "int8"}
