"""TINY begins from LITE's table, comes nearer to LITE, and trains to the same weights again."""

import json
import sys

import numpy as np
import pytest
import torch

from autoglm.lite import distil
from autoglm.lite.checkpoint import load_checkpoint, save_weights
from autoglm.lite.model import LiteConfig, LiteModel

CONFIG = LiteConfig(
    vocab_size=96,
    hidden_size=48,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    intermediate_size=64,
    rotary_dim=8,
    max_position=64,
)


def write_packed(folder, seed):
    folder.mkdir()
    rows = np.random.default_rng(seed).integers(0, 12, size=(32, 32)).astype(np.uint16)
    (folder / "tokens_000.bin").write_bytes(rows.tobytes())
    (folder / "card.json").write_text(json.dumps({"row_tokens": 32}))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distil")
    teacher = LiteModel(CONFIG, torch.Generator().manual_seed(1))
    save_weights(teacher, folder / "teacher.pt")
    return folder / "teacher.pt", write_packed(folder / "texts", 2), write_packed(folder / "qa", 3)


def run(monkeypatch, files, out, steps):
    teacher, texts, answers = (str(file) for file in files)
    command = ["distil", "--teacher", teacher, "--packed", texts, "--answers", answers]
    shape = ["--layers", "1", "--hidden", "32", "--heads", "1", "--intermediate", "32"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(out), "--steps", str(steps), *shape])
    distil.main()
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_student_comes_nearer_to_its_teacher(monkeypatch, files, tmp_path):
    log = run(monkeypatch, files, tmp_path, 40)
    assert log[-1]["loss"] < log[0]["loss"] - 0.1
    assert np.mean([entry["agreement"] for entry in log[-5:]]) > log[0]["agreement"]
    student = load_checkpoint(tmp_path / "weights.pt")
    assert student.config.num_layers == 1
    assert student.num_parameters() < load_checkpoint(files[0]).num_parameters()


def test_the_same_seed_gives_the_same_weights(monkeypatch, files, tmp_path):
    found = []
    for name in ("a", "b"):
        run(monkeypatch, files, tmp_path / name, 2)
        found.append(load_checkpoint(tmp_path / name / "weights.pt").state_dict())
    for name, weights in found[0].items():
        assert torch.equal(weights, found[1][name]), name
