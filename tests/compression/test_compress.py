"""The whole of a compression: what is written, what a kill leaves, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import autoglm
from autoglm import _core
from autoglm.compression import pipeline, plan
from autoglm.compression.codes import unpack
from autoglm.compression.stage import Stage
from autoglm.engine.native import NativeModel
from autoglm.errors import InputError, ModelFileError, StorageError, UsageError
from autoglm.modelfile.arch import MOST_PRUNED_COLS
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.convert import convert
from autoglm.modelfile.safetensors import TensorFile
from autoglm.modelfile.safetensors_writer import TensorSpec
from autoglm.modelfile.verify import verify

WEIGHTS = "model.safetensors"
CALIBRATED = (
    "w8a8-smooth",
    "w4a8-gptq",
    "w3",
    "prune-unstructured-50",
    "prune-unstructured-80",
    "prune-2-4",
    "prune-block-50",
)
PLAIN = ("int8-dynamic", "int8-per-tensor", "w4a8")


def options(name: str, text: Path) -> dict[str, object]:
    return {"calibration": text} if name in CALIBRATED else {}


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def files_of(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


@pytest.mark.parametrize("name", [*PLAIN, *CALIBRATED])
def test_recipe_writes_a_bundle_that_runs(source, text, tmp_path, leftovers, name):
    result = autoglm.compress(source, name, out=tmp_path / "out", **options(name, text))
    assert verify(tmp_path / "out").num_tensors
    bundle = open_bundle(tmp_path / "out")
    logits = NativeModel(bundle, pool_tokens=64).logits([1, 2, 3])
    assert np.isfinite(logits).all()
    assert result.weights_bytes == (tmp_path / "out" / WEIGHTS).stat().st_size
    assert leftovers(tmp_path) == ["out", "src", "text.txt"]


def test_rounding_to_nearest_is_what_convert_writes(source, tmp_path):
    autoglm.compress(source, "w4a8", out=tmp_path / "ours")
    convert(source, tmp_path / "theirs", "int4", formats={"model.layers.*.attn.qkv": "int8"})
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (
        tmp_path / "theirs" / WEIGHTS
    ).read_bytes()


def test_bundle_keeps_its_recipe_and_the_bits_of_its_activations(source, recipe, tmp_path):
    mine = recipe('weights = "int8"\nactivation_bits = 8\n')
    autoglm.compress(source, mine, out=tmp_path / "out")
    assert (tmp_path / "out/recipe.toml").read_bytes() == mine.read_bytes()
    assert open_bundle(tmp_path / "out").packing.activation_bits == 8


def test_activation_bits_reach_the_kernels(source, recipe, tmp_path):
    logits = {}
    for bits in (8, 16):
        path = tmp_path / f"out{bits}"
        autoglm.compress(source, recipe(f'weights = "int8"\nactivation_bits = {bits}\n'), out=path)
        logits[bits] = NativeModel(open_bundle(path), pool_tokens=64).logits([1, 2, 3])
    assert not np.array_equal(logits[8], logits[16])
    assert np.allclose(logits[8], logits[16], atol=0.05 * np.abs(logits[16]).max())


@pytest.mark.parametrize("target", ["sparse8", "half8", "block8"])
def test_the_core_takes_as_many_columns_without_zeros_as_compression_thinks(target):
    assert _core.packed_shapes(target, 16, MOST_PRUNED_COLS)
    with pytest.raises(_core.CoreError, match="at most 16384 columns"):
        _core.packed_shapes(target, 16, MOST_PRUNED_COLS + 1)


def test_a_matrix_that_is_too_wide_keeps_its_zeros(source, text, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MOST_PRUNED_COLS", 32)
    autoglm.compress(source, "prune-2-4", out=tmp_path / "out", calibration=text)
    with TensorFile(tmp_path / "out" / WEIGHTS) as file:
        codes = {name for name in file.header.tensors if name.endswith(".codes")}
    assert any(name.endswith("attn.qkv.codes") for name in codes)
    assert not any("mlp.down" in name for name in codes)
    assert np.isfinite(NativeModel(open_bundle(tmp_path / "out"), pool_tokens=64).logits([1])).all()


@pytest.mark.parametrize("name", ["w4a8", "w3"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_interrupted_work_goes_on_and_ends_in_the_same_bytes(
    source, text, tmp_path, leftovers, monkeypatch, name, stop_after
):
    autoglm.compress(source, name, out=tmp_path / "whole", **options(name, text))

    finished = []

    def stop(self, unit, names, note=Stage.finish_unit):
        if len(finished) == stop_after:
            raise KeyboardInterrupt
        finished.append(unit)
        note(self, unit, names)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stage, "finish_unit", stop)
        autoglm.compress(source, name, out=tmp_path / "out", **options(name, text))
    assert ".out.compress" in leftovers(tmp_path)
    result = autoglm.compress(source, name, out=tmp_path / "out", **options(name, text))
    assert result.resumed_units == stop_after
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert ".out.compress" not in leftovers(tmp_path)


def test_killed_process_loses_nothing_that_was_finished(source, tmp_path):
    autoglm.compress(source, "w4a8", out=tmp_path / "whole")
    script = (
        "import os, signal, sys\n"
        "from autoglm.compression import pipeline\n"
        "from autoglm.compression.stage import Stage\n"
        "note = Stage.finish_unit\n"
        "def stop(self, unit, names):\n"
        "    note(self, unit, names)\n"
        "    if unit == 'model.layers.0': os.kill(os.getpid(), signal.SIGKILL)\n"
        "Stage.finish_unit = stop\n"
        "pipeline.compress(sys.argv[1], 'w4a8', out=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out")]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    journal = tmp_path / ".out.compress/journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'["model.layers.1", {"half')  # what a power cut may leave
    result = autoglm.compress(source, "w4a8", out=tmp_path / "out")
    assert result.resumed_units == 2
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_finished_layer_that_changed_since_is_written_again(source, tmp_path, monkeypatch):
    autoglm.compress(source, "w4a8", out=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stage, "finish", interrupt)
        autoglm.compress(source, "w4a8", out=tmp_path / "out")
    weights = tmp_path / ".out.compress/bundle" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    result = autoglm.compress(source, "w4a8", out=tmp_path / "out")
    assert result.resumed_units == 3
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_another_recipe_does_not_go_on_with_the_work_of_the_first(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stage, "finish", interrupt)
        autoglm.compress(source, "w4a8", out=tmp_path / "out")
    assert autoglm.compress(source, "int8-dynamic", out=tmp_path / "out").resumed_units == 0
    assert open_bundle(tmp_path / "out").weights == "int8"


def test_second_writer_of_the_same_place_is_refused(tmp_path):
    specs = [TensorSpec("a", "F32", (16,))]
    with (
        Stage(tmp_path / "out", "job", specs),
        pytest.raises(StorageError, match="another process is writing it"),
    ):
        Stage(tmp_path / "out", "job", specs)


def test_weight_that_is_not_a_number_is_named_and_nothing_stays(
    parts, source, text, tmp_path, leftovers
):
    name = "model.layers.1.mlp.down_proj.weight"
    parts.tensors[name][3, 4] = np.nan
    parts.write(source)
    for recipe in ("w4a8", "int8-per-tensor", "w4a8-gptq"):
        with pytest.raises(ModelFileError, match=name):
            autoglm.compress(source, recipe, out=tmp_path / "out", **options(recipe, text))
        assert leftovers(tmp_path) == ["src", "text.txt"]


def test_full_disk_says_so_at_once(source, tmp_path, monkeypatch, leftovers):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        autoglm.compress(source, "w4a8", out=tmp_path / "out")
    assert leftovers(tmp_path) == ["src"]


def test_existing_bundle_is_not_overwritten(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("kept")
    with pytest.raises(StorageError, match="exists already"):
        autoglm.compress(source, "w4a8", out=tmp_path / "out")
    assert (tmp_path / "out/mine").read_text() == "kept"


def test_calibration_is_asked_for_where_it_is_needed_and_only_there(source, text, tmp_path):
    with pytest.raises(UsageError, match="w4a8-gptq looks at activations; name a text"):
        autoglm.compress(source, "w4a8-gptq", out=tmp_path / "out")
    with pytest.raises(UsageError, match="w4a8 does not look at activations"):
        autoglm.compress(source, "w4a8", out=tmp_path / "out", calibration=text)


@pytest.mark.parametrize(("content", "message"), [("", "empty"), ("w1", "has 1 token")])
def test_text_without_tokens_is_refused(source, tmp_path, content, message):
    path = tmp_path / "short.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        autoglm.compress(source, "w3", out=tmp_path / "out", calibration=path)


def test_format_of_no_matrix_is_refused(source, recipe, tmp_path):
    wrong = recipe('weights = "int8"\n[formats]\n"*.attn.w" = "int4"\n')
    with pytest.raises(UsageError, match=r"no matrix of this model is called '\*\.attn\.w'"):
        autoglm.compress(source, wrong, out=tmp_path / "out")


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_pruned_bundle_has_the_zeros_it_was_asked_for(
    source, text, recipe, tmp_path, method, weights
):
    mine = recipe(f'weights = "{weights}"\n[pruning]\nmethod = "{method}"\nsparsity = 0.75\n')
    calibration = None if method == "magnitude" else text
    autoglm.compress(source, mine, out=tmp_path / "out", calibration=calibration)
    for name, rows, cols in (("attn.o", 32, 32), ("mlp.down", 32, 40)):
        matrix = stored(tmp_path / "out", f"model.layers.1.{name}", weights, rows, cols)
        num_zeros = (matrix == 0).sum(axis=1)
        assert num_zeros.min() >= 0.75 * cols
        # Rounding to few bits makes some more.
        assert weights == "int4" or num_zeros.max() <= 0.75 * cols + 2
    assert (stored(tmp_path / "out", "model.embed_tokens", weights, 50, 32) != 0).mean() > 0.8


def stored(bundle: Path, name: str, weights: str, rows: int, cols: int) -> np.ndarray:
    with TensorFile(bundle / WEIGHTS) as file:
        tensors = file.header.tensors
        suffixes = [spec[0] for spec in _core.packed_shapes(weights, rows, cols)]
        found = [tensors[f"{name}.{suffix}"] for suffix in suffixes]
        return unpack([file.read(t, 0, t.nbytes) for t in found], weights, rows, cols)


def test_pruning_that_leaves_a_dead_layer_is_refused(source, recipe, tmp_path, leftovers):
    mine = recipe('weights = "int8"\n[pruning]\nmethod = "magnitude"\nsparsity = 0.99\n')
    with pytest.raises(UsageError, match=r"leaves nothing of the 32 columns of model\.layers\.0"):
        autoglm.compress(source, mine, out=tmp_path / "out")
    assert "out" not in leftovers(tmp_path)


def test_progress_ends_with_everything_done(source, text, tmp_path):
    for name in ("w4a8", "w3"):
        seen: list[tuple[int, int]] = []
        pipeline.compress(
            source,
            name,
            out=tmp_path / name,
            progress=lambda done, total, seen=seen: seen.append((done, total)),
            **options(name, text),
        )
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1][0] > 0.95 * seen[-1][1]


def test_command_reports_what_it_wrote(source, tmp_path):
    command = [sys.executable, "-m", "autoglm", "compress", str(source), "--json"]
    done = subprocess.run(
        [*command, "--recipe", "int8-dynamic", "--out", str(tmp_path / "out")],
        capture_output=True,
        check=True,
        timeout=60,
    )
    report = json.loads(done.stdout)
    assert report["recipe"] == "int8-dynamic"
    assert report["weights_bytes"] == (tmp_path / "out" / WEIGHTS).stat().st_size
    assert report["bits_per_weight"] == pytest.approx(
        8 * report["weights_bytes"] / report["num_weights"]
    )


def test_eval_puts_quality_size_and_speed_beside_bf16(source, text, tmp_path, leftovers):
    command = [sys.executable, "-m", "autoglm", "compress", str(source), "--json", "--eval"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--eval-text", str(text)],
        capture_output=True,
        check=True,
        timeout=120,
    )
    report = json.loads(done.stdout)
    (quality,) = report["quality"]
    assert quality["text"] == "text"
    assert quality["perplexity_low"] <= quality["perplexity"] <= quality["perplexity_high"]
    ratio = quality["perplexity"] / quality["reference"]
    assert quality["rise_percent"] == pytest.approx(100 * (ratio - 1))
    assert report["decode_tokens_per_s"] > 0 and report["bf16_decode_tokens_per_s"] > 0
    assert report["bf16_bytes"] > 0
    assert leftovers(tmp_path) == ["out", "src", "text.txt"]


def test_text_for_eval_is_looked_at_before_any_work(source, tmp_path, leftovers):
    command = [sys.executable, "-m", "autoglm", "compress", str(source), "--out"]
    command += [str(tmp_path / "out"), "--eval", "--eval-text", str(tmp_path / "none.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "none.txt" in done.stderr
    assert leftovers(tmp_path) == ["src"]
