"""Sharded checkpoints and bundles: names stay inside the directory, files agree with each other."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from autoglm.errors import (
    ModelConfigError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.convert import convert
from autoglm.modelfile.safetensors_writer import SafetensorsWriter, TensorSpec
from autoglm.modelfile.verify import verify

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(parts, tmp_path):
    """The checkpoint in two shards."""
    names = list(parts.tensors)
    return parts.write(
        tmp_path / "src", shards={"a.safetensors": names[:9], "b.safetensors": names[9:]}
    )


@pytest.fixture
def bundle(parts, tmp_path):
    convert(parts.write(tmp_path / "whole"), tmp_path / "bundle", "int8")
    return tmp_path / "bundle"


def edit_json(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_shards_give_the_same_bundle_as_one_file(sharded, bundle, tmp_path):
    convert(sharded, tmp_path / "out", "int8")
    first, second = (path / "model.safetensors" for path in (bundle, tmp_path / "out"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "../a.safetensors",
        "/etc/passwd",
        "sub/a.safetensors",
        "..",
        ".",
        "",
        "a\0b",
        "x" * 300,
        "\ud800",
    ],
)
def test_shard_name_outside_the_directory_is_refused(sharded, tmp_path, name):
    (sharded / "sub").mkdir()
    shutil.copy(sharded / "a.safetensors", sharded / "sub")
    shutil.copy(sharded / "a.safetensors", tmp_path)
    edit_json(sharded / INDEX, lambda index: index["weight_map"].update({"lm_head.weight": name}))
    with pytest.raises(ModelFileError, match="is not the name of a file"):
        convert(sharded, tmp_path / "out", "int8")


@pytest.mark.parametrize("linked", ["a.safetensors", INDEX, "config.json", "tokenizer.json"])
def test_link_out_of_the_directory_is_refused(sharded, tmp_path, linked):
    (sharded / linked).rename(tmp_path / "outside")
    (sharded / linked).symlink_to(tmp_path / "outside")
    with pytest.raises(ModelFileError, match="leads out of the model directory"):
        convert(sharded, tmp_path / "out", "int8")


def test_link_to_itself_is_a_typed_error(sharded, tmp_path):
    (sharded / "a.safetensors").unlink()
    (sharded / "a.safetensors").symlink_to("a.safetensors")
    with pytest.raises(ModelFileError, match=r"a\.safetensors"):
        convert(sharded, tmp_path / "out", "int8")


def test_hub_cache_snapshot_is_accepted(sharded, tmp_path):
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots/0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in sharded.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.name.encode()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    assert convert(snapshot, tmp_path / "out", "int8").architecture == "LlamaForCausalLM"


BROKEN_INDEX = {
    "no map": (lambda index: index.pop("weight_map"), "weight_map"),
    "map is a list": (lambda index: index.update(weight_map=[]), "weight_map"),
    "empty map": (lambda index: index.update(weight_map={}), "weight_map"),
    "shard is a number": (lambda index: index["weight_map"].update(x=1), "names no file"),
    "missing shard": (lambda index: index["weight_map"].update(x="c.safetensors"), "no such file"),
    "tensor without shard": (lambda index: index["weight_map"].pop("lm_head.weight"), "lm_head"),
    "shard without tensor": (
        lambda index: index["weight_map"].update(ghost="a.safetensors"),
        "ghost",
    ),
    "tensor in the other shard": (
        lambda index: index["weight_map"].update({"lm_head.weight": "a.safetensors"}),
        "lm_head",
    ),
    "2000 shards": (
        lambda index: index["weight_map"].update({f"t{i}": f"s{i}" for i in range(2000)}),
        "more than 1024 shards",
    ),
}


@pytest.mark.parametrize(("change", "reason"), BROKEN_INDEX.values(), ids=BROKEN_INDEX)
def test_broken_index_ends_in_a_model_file_error(sharded, tmp_path, change, reason):
    edit_json(sharded / INDEX, change)
    with pytest.raises(ModelFileError, match=reason):
        convert(sharded, tmp_path / "out", "int8")


def test_tensor_in_two_shards_is_refused(parts, tmp_path):
    names = list(parts.tensors)
    shards = {"a.safetensors": names[:9], "b.safetensors": names[8:]}
    with pytest.raises(ModelFileError, match=r"is in 'a\.safetensors' and 'b\.safetensors'"):
        convert(parts.write(tmp_path / "src", shards=shards), tmp_path / "out", "int8")


def test_ordinary_checkpoint_is_no_bundle_and_the_way_is_shown(sharded):
    with pytest.raises(UnsupportedModelError, match=f"autoglm convert {sharded}"):
        open_bundle(sharded)


@pytest.mark.parametrize("path", ["nowhere", "bundle/config.json", "."])
def test_what_is_no_model_directory_is_named(bundle, tmp_path, path):
    with pytest.raises(ModelNotFoundError, match=str(tmp_path)):
        open_bundle(tmp_path / path)


BROKEN_BUNDLE = {
    "newer format": (lambda c: c["quantization_config"].update(format=2), UnsupportedModelError),
    "unknown weights": (
        lambda c: c["quantization_config"].update(weights="int3"),
        ModelConfigError,
    ),
    "other weights": (lambda c: c["quantization_config"].update(weights="int4"), ModelConfigError),
    "more layers": (lambda c: c.update(num_hidden_layers=3), ModelConfigError),
    "fewer layers": (lambda c: c.update(num_hidden_layers=1), ModelConfigError),
    "512 layers of 1024 heads": (
        lambda c: c.update(num_hidden_layers=512, num_attention_heads=1024, head_dim=512),
        ModelConfigError,
    ),
    "larger vocabulary": (lambda c: c.update(vocab_size=65), ModelConfigError),
    "other family": (lambda c: c.update(architectures=["Qwen3ForCausalLM"]), ModelConfigError),
    "tied": (lambda c: c.update(tie_word_embeddings=True), ModelConfigError),
}


@pytest.mark.parametrize(("change", "error"), BROKEN_BUNDLE.values(), ids=BROKEN_BUNDLE)
def test_config_that_disagrees_with_the_bundle_is_refused(bundle, change, error):
    edit_json(bundle / "config.json", change)
    with pytest.raises(error, match=str(bundle)):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_verify_finds_one_flipped_bit(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[-2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=f"{name}: SHA-256"):
        verify(bundle)


def test_verify_finds_a_cut_a_lost_and_an_added_file(bundle):
    weights = bundle / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(ModelFileError, match=f"has {len(content) - 1} bytes"):
        verify(bundle)
    weights.unlink()
    with pytest.raises(ModelNotFoundError, match="no such file"):
        verify(bundle)
    weights.write_bytes(content)
    (bundle / "chat_template.jinja").write_text("{{ evil }}")
    with pytest.raises(ModelFileError, match="was added after"):
        verify(bundle)


BROKEN_MANIFEST = {
    "no files": lambda m: m.update(files=[]),
    "files by name": lambda m: m.update(files={"a": 1}),
    "newer format": lambda m: m.update(format=2),
    "twice": lambda m: m["files"].append(m["files"][0]),
    "negative size": lambda m: m["files"][0].update(size=-1),
    "no digest": lambda m: m["files"][0].pop("sha256"),
    "path outside": lambda m: m["files"].append({"name": "../x", "size": 0, "sha256": ""}),
}


@pytest.mark.parametrize("change", BROKEN_MANIFEST.values(), ids=BROKEN_MANIFEST)
def test_broken_manifest_ends_in_a_model_file_error(bundle, change):
    edit_json(bundle / "manifest.json", change)
    with pytest.raises(ModelFileError, match=str(bundle)):
        verify(bundle)


def test_bundle_without_manifest_opens_but_does_not_verify(bundle):
    (bundle / "manifest.json").unlink()
    assert open_bundle(bundle).weights == "int8"
    with pytest.raises(ModelNotFoundError, match="cannot be verified"):
        verify(bundle)


def test_bundle_whose_tensors_are_not_aligned_is_refused(bundle):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(bundle / "model.safetensors")
    save_file({**tensors, "pad.x": np.zeros(1, np.uint8)}, bundle / "model.safetensors")
    with pytest.raises(ModelConfigError, match="not a multiple of 64"):
        open_bundle(bundle)


def test_writer_pads_every_tensor_to_64_bytes_and_the_reference_reads_it(tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "m.safetensors"
    values = np.arange(5, dtype=np.float32)
    with SafetensorsWriter(path, [TensorSpec("a", "F32", (5,)), TensorSpec("b", "U8", (3,))]) as w:
        w.append("b", b"\1\2\3")
        w.append("a", values[:2].tobytes())
        w.append("a", values[2:].tobytes())
        w.finish()
    tensors = load_file(path)
    assert np.array_equal(tensors["a"], values)
    assert tensors["b"].tolist() == [1, 2, 3]
    assert path.stat().st_size % 64 == 0


def test_writer_refuses_too_many_and_too_few_bytes(tmp_path):
    spec = TensorSpec("a", "U8", (4,))
    with SafetensorsWriter(tmp_path / "m.safetensors", [spec]) as writer:
        with pytest.raises(ValueError, match="takes 4 more bytes, got 5"):
            writer.append("a", bytes(5))
        writer.append("a", bytes(3))
        with pytest.raises(ValueError, match="lacks 1 bytes"):
            writer.finish()
