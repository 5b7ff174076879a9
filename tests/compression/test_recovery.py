"""Training after pruning: the same steps as the engine, zeros kept, and work that goes on."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import autoglm
from autoglm.compression.recipe import load_recipe
from autoglm.engine.native import NativeModel
from autoglm.errors import InputError, UsageError
from autoglm.modelfile.bundle import open_bundle
from autoglm.recovery import training
from autoglm.recovery.distance import distance
from autoglm.recovery.floats import read_floats, write_checkpoint
from autoglm.recovery.network import Network
from autoglm.recovery.pipeline import compress_and_recover

FLOATS = 'weights = "fp32"\n'
HALF = 'weights = "fp32"\n[pruning]\nmethod = "magnitude"\nsparsity = 0.5\n'
THIN = 'weights = "int8"\n[structure]\nheads = 0.5\nchannels = 0.5\n'
SIZES = "[calibration]\nsequence_tokens = 64\n"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products: threads that wait for each other cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def logits(path: Path, ids: list[int]) -> np.ndarray:
    return NativeModel(open_bundle(path), pool_tokens=64).logits(ids)


def distance_of(path: Path, whole: Path) -> float:
    """Mean Kullback-Leibler distance of two bundles on some words."""
    ids = np.random.default_rng(7).integers(0, 40, 48).tolist()
    got, wanted = (
        torch.log_softmax(torch.from_numpy(logits(bundle, ids)).double(), -1)
        for bundle in (path, whole)
    )
    return float((wanted.exp() * (wanted - got)).sum(-1).mean())


def test_network_computes_what_the_engine_does(source, recipe, tmp_path):
    autoglm.compress(source, recipe(FLOATS), out=tmp_path / "whole")
    model = read_floats(tmp_path / "whole")
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    got = Network(model.config, model.tensors)(torch.tensor([ids]))[0].detach().numpy()
    wanted = logits(tmp_path / "whole", ids)
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_distance_and_its_slopes_are_those_of_whole_logits(share):
    rng = torch.Generator().manual_seed(3)
    hidden, head, wanted, other = (
        torch.randn(rows, 16, generator=rng).bfloat16().float() for rows in (600, 90, 600, 90)
    )
    targets = torch.randint(0, 90, (600,), generator=rng)
    pairs = []
    for is_whole in (True, False):
        x, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if is_whole:
            logits_of = [torch.log_softmax(a @ b.T, -1) for a, b in ((x, w), (wanted, other))]
            found = torch.nn.functional.kl_div(*logits_of, log_target=True, reduction="batchmean")
            labels = torch.nn.functional.nll_loss(logits_of[0], targets)
            found = (1.0 - share) * found + share * labels
        else:
            found = distance(x, w, wanted, other, targets=targets, label_share=share)
        found.backward()
        pairs.append((found.detach(), x.grad, w.grad))
    for exact, got in zip(*pairs, strict=True):  # products in bf16
        assert (exact - got).abs().max() < 0.02 * exact.abs().max()


def test_checkpoint_of_a_bundle_gives_the_bundle_again(source, recipe, tmp_path):
    autoglm.compress(source, recipe(FLOATS), out=tmp_path / "whole")
    write_checkpoint(tmp_path / "again", tmp_path / "whole", read_floats(tmp_path / "whole"))
    autoglm.compress(tmp_path / "again", recipe(FLOATS), out=tmp_path / "second")
    first, second = (tmp_path / name / "model.safetensors" for name in ("whole", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_values_of_packed_matrices_are_read_and_others_refused(source, recipe, tmp_path):
    autoglm.compress(source, recipe(FLOATS), out=tmp_path / "whole")
    autoglm.compress(source, recipe('weights = "int8"\n'), out=tmp_path / "packed")
    whole, packed = (read_floats(tmp_path / name).tensors for name in ("whole", "packed"))
    assert packed.keys() == whole.keys()
    for name, values in whole.items():
        assert np.abs(packed[name] - values).max() <= np.abs(values).max() / 127
    asymmetric = recipe('weights = "int4"\nsymmetric = false\n')
    autoglm.compress(source, asymmetric, out=tmp_path / "offsets")
    with pytest.raises(InputError, match="stores scales, offsets or experts"):
        read_floats(tmp_path / "offsets")


# What is left of a thin layer has been fitted already, so there is less to gain.
@pytest.mark.parametrize(("content", "most"), [(HALF, 0.85), (THIN, 0.97)])
def test_training_brings_the_model_nearer_to_its_whole(
    source, text, recipe, tmp_path, content, most
):
    autoglm.compress(source, recipe(FLOATS), out=tmp_path / "whole")
    mine = recipe(content + SIZES)
    needed = load_recipe(mine).needs_calibration
    autoglm.compress(source, mine, out=tmp_path / "plain", calibration=text if needed else None)
    compress_and_recover(source, mine, out=tmp_path / "out", calibration=text, steps=30)
    plain, recovered = (
        distance_of(tmp_path / name, tmp_path / "whole") for name in ("plain", "out")
    )
    assert recovered < most * plain
    assert open_bundle(tmp_path / "out").config == open_bundle(tmp_path / "plain").config


def test_zeros_stay_in_the_same_numbers(source, text, recipe, tmp_path, leftovers):
    mine = recipe(HALF + SIZES)
    compress_and_recover(source, mine, out=tmp_path / "out", calibration=text, steps=3)
    tensors = read_floats(tmp_path / "out").tensors
    down = tensors["model.layers.1.mlp.down"]
    assert ((down == 0).sum(axis=1) == down.shape[1] // 2).all()
    assert leftovers(tmp_path) == ["mine.toml", "out", "src", "text.txt"]


def test_interrupted_training_goes_on_and_ends_in_the_same_bytes(
    source, text, recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "_SAVE_EVERY", 2)
    mine = recipe(THIN + SIZES)
    options = {"calibration": text, "steps": 5}
    compress_and_recover(source, mine, out=tmp_path / "whole", **options)
    seen: list[int] = []

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "recovering":
            seen.append(done)
            if done == 3 and seen.count(3) == 1 and len(seen) == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_and_recover(source, mine, out=tmp_path / "out", **options, progress=stop)
    compress_and_recover(source, mine, out=tmp_path / "out", **options, progress=stop)
    assert seen == [0, 1, 2, 3, 2, 3, 4, 5]
    names = ("model.safetensors", "config.json", "recipe.toml")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rows_of_a_task_are_trained_on_from_their_beginnings(source, recipe, tmp_path):
    autoglm.compress(source, recipe(FLOATS), out=tmp_path / "whole")
    rng = np.random.default_rng(5)
    rows = [
        {"text": " ".join(f"w{word}" for word in [1, *rng.integers(2, 40, 70).tolist()])}
        for _ in range(30)
    ]
    task = tmp_path / "task.jsonl"
    task.write_text("\n".join(json.dumps(row) for row in rows))
    mine = recipe(HALF + SIZES)
    autoglm.compress(source, mine, out=tmp_path / "plain")
    compress_and_recover(source, mine, out=tmp_path / "out", calibration=task, steps=30)
    plain, recovered = (
        distance_of(tmp_path / name, tmp_path / "whole") for name in ("plain", "out")
    )
    assert recovered < 0.85 * plain


def test_what_cannot_be_trained_is_refused(source, text, recipe, tmp_path):
    with pytest.raises(UsageError, match="w4a8 removes nothing"):
        compress_and_recover(source, "w4a8", out=tmp_path / "o", calibration=text, steps=1)
    rotated = recipe(HALF.replace("[pruning]", 'passes = ["default", "fold-norm-gain"]\n[pruning]'))
    with pytest.raises(UsageError, match="needs the 'passes'"):
        compress_and_recover(source, rotated, out=tmp_path / "o", calibration=text, steps=1)
    (tmp_path / "short.txt").write_text("w1 w2 w3")
    with pytest.raises(InputError, match="has 3 tokens"):
        compress_and_recover(
            source, recipe(HALF), out=tmp_path / "o", calibration=tmp_path / "short.txt", steps=1
        )


def test_command_asks_for_a_text(source, tmp_path):
    command = [sys.executable, "-m", "autoglm", "compress", str(source), "--recover", "5"]
    command += ["--recipe", "prune-structured-30", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--recover trains on a text" in done.stderr
