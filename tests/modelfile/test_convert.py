"""Conversion: what a bundle holds, and that any failure leaves nothing behind."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoglm import _core
from autoglm.errors import (
    ModelConfigError,
    ModelFileError,
    ModelNotFoundError,
    StorageError,
    UnsupportedModelError,
)
from autoglm.modelfile import pack
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.convert import convert
from autoglm.modelfile.safetensors import TensorFile
from autoglm.modelfile.verify import verify

WEIGHTS = ("fp32", "bf16", "int8", "int4", "int3")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_bundle_verifies_and_opens_in_its_format(parts, tmp_path, weights):
    source = parts.write(tmp_path / "src")
    report = convert(source, tmp_path / "out", weights)
    bundle = open_bundle(tmp_path / "out")
    assert (bundle.weights, bundle.architecture) == (weights, "LlamaForCausalLM")
    assert verify(tmp_path / "out").num_tensors == report.num_tensors == len(bundle.tensors)
    assert all(tensor.offset % 64 == 0 for tensor in bundle.tensors)


def test_chunks_of_any_size_give_the_same_bundle(parts, tmp_path, monkeypatch):
    source = parts.write(tmp_path / "src")
    convert(source, tmp_path / "large", "int8")
    monkeypatch.setattr(pack, "CHUNK_BYTES", 1)
    convert(source, tmp_path / "small", "int8")
    first, second = (tmp_path / name / "model.safetensors" for name in ("large", "small"))
    assert first.read_bytes() == second.read_bytes()


def test_qkv_rows_follow_each_other_and_gate_and_up_alternate(parts, tmp_path):
    convert(parts.write(tmp_path / "src"), tmp_path / "out", "fp32")
    prefix = "model.layers.1."
    stored = parts.tensors
    qkv = [stored[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkv"]
    assert np.array_equal(unpacked(tmp_path / "out", f"{prefix}attn.qkv", 64, 32), np.vstack(qkv))
    gate, up = (stored[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up"))
    zeros = np.zeros((8, 32), np.float32)  # 40 rows fill three blocks of 16 with 8 to spare
    expected = [gate[:16], up[:16], gate[16:32], up[16:32], gate[32:], zeros, up[32:], zeros]
    gate_up = unpacked(tmp_path / "out", f"{prefix}mlp.gate_up", 96, 32)
    assert np.array_equal(gate_up, np.vstack(expected))


def unpacked(bundle: Path, name: str, rows: int, cols: int) -> np.ndarray:
    with TensorFile(bundle / "model.safetensors") as file:
        tensor = file.header.tensors[f"{name}.weight"]
        data = _core.dequantize("fp32", [file.read(tensor, 0, tensor.nbytes)], rows, cols)
    return np.frombuffer(data, np.float32).reshape(rows, cols)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_sources_keep_their_values(parts, tmp_path, dtype):
    import torch
    from safetensors.torch import save_file

    source = parts.write(tmp_path / "src")
    halves = {k: torch.from_numpy(v).to(getattr(torch, dtype)) for k, v in parts.tensors.items()}
    save_file(halves, source / "model.safetensors")
    convert(source, tmp_path / "out", "fp32")
    norm, embedding = "model.norm.weight", "model.embed_tokens"
    with TensorFile(tmp_path / "out/model.safetensors") as file:
        gains = np.frombuffer(file.read(file.header.tensors[norm], 0, 128), np.float32)
    assert np.array_equal(gains, halves[norm].float().numpy())
    rows = unpacked(tmp_path / "out", embedding, 50, 32)
    assert np.array_equal(rows, halves[f"{embedding}.weight"].float().numpy())


def test_bundle_carries_tokenizer_template_licence_and_generation(parts, tmp_path):
    parts.files |= {
        "tokenizer_config.json": json.dumps(
            {
                "chat_template": [
                    {"name": "tool_use", "template": "no"},
                    {"name": "default", "template": "{{ bos_token }}你好"},
                ],
                "bos_token": {"content": "<s>"},
                "eos_token": "</s>",
            }
        ).encode(),
        "generation_config.json": json.dumps(
            {"eos_token_id": [3, 4, 99], "bos_token_id": 1, "temperature": 0.7, "top_k": 20}
        ).encode(),
        "LICENSE": b"Apache",
        "README.md": b"not copied",
    }
    convert(parts.write(tmp_path / "src"), tmp_path / "out", "bf16")
    bundle = open_bundle(tmp_path / "out")
    assert bundle.chat_template == "{{ bos_token }}你好"
    assert (bundle.bos_token, bundle.eos_token) == ("<s>", "</s>")
    assert bundle.eos_ids == (3, 4)  # 99 is beyond the vocabulary
    assert dict(bundle.generation) == {"temperature": 0.7, "top_k": 20}
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_config_json_keeps_the_checkpoints_keys_and_says_how_it_is_packed(parts, tmp_path):
    convert(parts.write(tmp_path / "src"), tmp_path / "out", "int4")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config.pop("quantization_config") == {
        "quant_method": "autoglm",
        "format": 1,
        "weights": "int4",
        "passes": ["merge-qkv", "merge-gate-up", "drop-dead"],
        "group_size": 64,
    }
    assert config == parts.config


def test_progress_ends_with_everything_read(parts, tmp_path):
    seen: list[tuple[int, int]] = []
    source = parts.write(tmp_path / "src")
    convert(
        source, tmp_path / "out", "int8", progress=lambda done, total: seen.append((done, total))
    )
    dones = [done for done, _ in seen]
    assert dones == sorted(dones)
    assert seen[-1][0] == seen[-1][1]


def test_what_the_engine_does_not_need_is_skipped(parts, tmp_path):
    parts.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    parts.config["tie_word_embeddings"] = True
    parts.tensors["lm_head.weight"] = parts.tensors["model.embed_tokens.weight"].copy()
    convert(parts.write(tmp_path / "src"), tmp_path / "out", "int8")
    names = [tensor.name for tensor in open_bundle(tmp_path / "out").tensors]
    assert not [name for name in names if "lm_head" in name or "inv_freq" in name]


def test_bundle_written_into_an_empty_directory_replaces_it(parts, tmp_path):
    (tmp_path / "out").mkdir()
    convert(parts.write(tmp_path / "src"), tmp_path / "out", "int8")
    assert open_bundle(tmp_path / "out").weights == "int8"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_existing_output_is_refused_and_kept(parts, tmp_path, kind):
    source, out = parts.write(tmp_path / "src"), tmp_path / "out"
    kept = out if kind == "file" else out / "keep"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        convert(source, out, "int8")
    assert kept.read_text() == "mine"


def change(key: str, value: object):
    return lambda parts: parts.config.update({key: value})


def replace(name: str, value: object):
    return lambda parts: parts.tensors.update({name: value})


NORM, HEAD, DOWN = "model.norm.weight", "lm_head.weight", "model.layers.1.mlp.down_proj.weight"
BROKEN = {
    "missing tensor": (lambda p: p.tensors.pop(DOWN), ModelConfigError, f"{DOWN}' is missing"),
    "extra tensor": (replace("model.extra", np.zeros(4, np.float32)), ModelConfigError, "extra"),
    "extra layer": (change("num_hidden_layers", 1), ModelConfigError, r"layers\.1\."),
    "layer too few": (change("num_hidden_layers", 3), ModelConfigError, r"layers\.2\..*missing"),
    "another shape": (
        change("intermediate_size", 48),
        ModelConfigError,
        r"gate_proj\.weight' has shape \[40, 32\], config\.json asks for \[48, 32\]",
    ),
    "another vocabulary": (change("vocab_size", 64), ModelConfigError, r"\[64, 32\]"),
    "transposed": (replace(DOWN, np.zeros((40, 32), np.float32)), ModelConfigError, DOWN),
    "biases promised": (change("attention_bias", True), ModelConfigError, "bias' is missing"),
    "integers": (replace(DOWN, np.zeros((32, 40), np.int32)), ModelConfigError, "type I32"),
    "mixed types": (
        replace("model.layers.0.mlp.up_proj.weight", np.zeros((40, 32), np.float16)),
        ModelConfigError,
        "differ in type",
    ),
    "NaN in a matrix": (
        replace(HEAD, np.full((50, 32), np.nan, np.float32)),
        ModelFileError,
        HEAD,
    ),
    "infinity in a gain": (replace(NORM, np.full(32, np.inf, np.float32)), ModelFileError, NORM),
    "tied with another head": (change("tie_word_embeddings", True), ModelConfigError, "differs"),
    "quantised source": (
        change("quantization_config", {"quant_method": "gptq"}),
        UnsupportedModelError,
        "'gptq'",
    ),
    "bundle as source": (
        change("quantization_config", {"quant_method": "autoglm"}),
        UnsupportedModelError,
        "already",
    ),
    "unknown architecture": (
        change("architectures", ["MambaForCausalLM"]),
        UnsupportedModelError,
        "MambaForCausalLM.*GlmForCausalLM",
    ),
    "tokenizer too large": (
        lambda p: p.files.update(
            {"tokenizer.json": json.dumps({"model": {"vocab": {"a": 50}}}).encode()}
        ),
        ModelConfigError,
        "token id 50, the model has 50",
    ),
    "added token too large": (
        lambda p: p.files.update(
            {
                "tokenizer.json": json.dumps(
                    {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 77}]}
                ).encode()
            }
        ),
        ModelConfigError,
        "token id 77",
    ),
    "tokenizer without vocabulary": (
        lambda p: p.files.update({"tokenizer.json": b"{}"}),
        ModelFileError,
        "vocab",
    ),
    "tokenizer cut": (
        lambda p: p.files.update({"tokenizer.json": p.files["tokenizer.json"][:-9]}),
        ModelFileError,
        "not valid JSON",
    ),
    "template is a number": (
        lambda p: p.files.update({"tokenizer_config.json": b'{"chat_template": 3}'}),
        ModelFileError,
        "chat_template",
    ),
    "template is half a surrogate": (
        lambda p: p.files.update({"tokenizer_config.json": b'{"chat_template": "\\ud800"}'}),
        ModelFileError,
        "Unicode",
    ),
    "end token as text": (change("eos_token_id", "2"), ModelConfigError, "eos_token_id"),
    "negative end token": (change("eos_token_id", -1), ModelConfigError, "eos_token_id"),
    "temperature as text": (
        lambda p: p.files.update({"generation_config.json": b'{"temperature": "hot"}'}),
        ModelConfigError,
        "temperature",
    ),
    "top_p that leaves no token": (
        lambda p: p.files.update({"generation_config.json": b'{"top_p": 0}'}),
        ModelConfigError,
        "top_p",
    ),
}


@pytest.mark.parametrize(("edit", "error", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_checkpoint_is_refused_in_one_line_and_leaves_nothing(
    parts, tmp_path, leftovers, edit, error, reason
):
    edit(parts)
    source = parts.write(tmp_path / "src")
    with pytest.raises(error, match=reason) as caught:
        convert(source, tmp_path / "work/out", "int8")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists() or leftovers(tmp_path / "work") == []


def test_missing_model_directory_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        convert(tmp_path / "nowhere", tmp_path / "out", "int8")


@pytest.mark.parametrize("removed", ["config.json", "model.safetensors"])
def test_missing_file_is_named(parts, tmp_path, removed):
    source = parts.write(tmp_path / "src")
    (source / removed).unlink()
    with pytest.raises(ModelNotFoundError, match=removed):
        convert(source, tmp_path / "out", "int8")


def test_full_disk_is_a_storage_error_and_leaves_nothing(parts, tmp_path, leftovers):
    source = parts.write(tmp_path / "src")
    (tmp_path / "work").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError, match="free some space"):
            convert(source, tmp_path / "work/out", "fp32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert leftovers(tmp_path / "work") == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interruption_leaves_nothing(parts, tmp_path, leftovers, error):
    source = parts.write(tmp_path / "src")

    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        convert(source, tmp_path / "work/out", "int8", progress=stop)
    assert leftovers(tmp_path / "work") == []


KILLED = """
import sys, time
from autoglm.modelfile.convert import convert
def report(done, total):
    print(done, flush=True)
    time.sleep(60)
convert(sys.argv[1], sys.argv[2], "int8", progress=report)
"""


def test_a_killed_conversion_leaves_no_bundle(parts, tmp_path):
    source = parts.write(tmp_path / "src")
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
    assert not (tmp_path / "out").exists()
    convert(source, tmp_path / "out", "int8")
    assert verify(tmp_path / "out").weights == "int8"


def test_output_that_cannot_be_written_is_a_storage_error(parts, tmp_path):
    source = parts.write(tmp_path / "src")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="writing failed"):
        convert(source, tmp_path / "file/out", "int8")


MEASURED = """
import resource, sys
from autoglm.modelfile.convert import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sys.argv[1], sys.argv[2], "int4")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_model(parts, tmp_path):
    from safetensors.numpy import save_file

    source = parts.write(tmp_path / "src")
    vocab = 500_000  # an embedding and a head of 64 MB each
    (source / "config.json").write_text(json.dumps({**parts.config, "vocab_size": vocab}))
    rows = np.ones((vocab, 32), np.float32)
    large = {"model.embed_tokens.weight": rows, "lm_head.weight": rows}
    save_file({**parts.tensors, **large}, source / "model.safetensors")
    command = [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert int(done.stdout) / 1024 < 60  # MiB
