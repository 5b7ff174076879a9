"""The loop learns, resumes where it stopped, and the schedule has its three phases."""

import json
import subprocess
import sys
from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer

from autoglm.errors import InvalidRequestError
from autoglm.lite import pack, train
from autoglm.lite.checkpoint import load_checkpoint
from autoglm.lite.optim import Schedule, orthogonalise
from autoglm.lite.packed import PackedRows, RowOrder, Span
from autoglm.lite.sample import answer


@pytest.fixture(scope="module")
def packed(data_dir, tokenizer_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys,
            "argv",
            [
                "pack",
                "--data",
                str(data_dir),
                "--tokenizer",
                str(tokenizer_file),
                "--out",
                str(out),
                "--rows",
                "16",
                "--row-tokens",
                "128",
            ],
        )
        pack.main()
    return out


def run_train(monkeypatch, packed, out, steps, *options, kernels="torch"):
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "train",
            "--packed",
            str(packed),
            "--held-out",
            str(packed),
            "--out",
            str(out),
            "--steps",
            str(steps),
            "--batch-rows",
            "2",
            "--vocab",
            "512",
            "--hidden",
            "128",
            "--layers",
            "1",
            "--heads",
            "2",
            "--intermediate",
            "128",
            "--eval-steps",
            "2",
            "--no-compile",
            "--threads",
            "1",
            "--kernels",
            kernels,
            "--decay-from",
            "1.0",
            "--warmup",
            "0.0",
            *options,
        ],
    )
    train.main()
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_loss_falls_and_a_second_run_goes_on_from_the_checkpoint(
    monkeypatch, packed, tmp_path, tokenizer_file
):
    first = run_train(monkeypatch, packed, tmp_path, 2)
    both = run_train(monkeypatch, packed, tmp_path, 4)
    straight = run_train(monkeypatch, packed, tmp_path / "straight", 4)
    assert [entry["step"] for entry in both] == list(range(1, 5))
    assert both[-1]["held_out_loss"] < first[-1]["held_out_loss"]
    assert both[-1]["loss"] == straight[-1]["loss"]


def test_a_run_with_answers_resumes_with_the_rows_it_would_have_read(monkeypatch, packed, tmp_path):
    answers = ("--answers", str(packed), "--answer-share", "0.5")
    run_train(monkeypatch, packed, tmp_path, 3, *answers)
    resumed = run_train(monkeypatch, packed, tmp_path, 12, *answers)
    straight = run_train(monkeypatch, packed, tmp_path / "straight", 12, *answers)
    assert resumed[-1]["loss"] == straight[-1]["loss"]


def test_a_leg_ends_early_and_the_next_goes_on(monkeypatch, packed, tmp_path):
    first = run_train(monkeypatch, packed, tmp_path, 3, "--leg-minutes", "1e-9")
    assert first == []
    assert len(run_train(monkeypatch, packed, tmp_path, 3)) == 3


def test_micro_batches_give_the_update_of_the_whole_batch(monkeypatch, packed, tmp_path):
    whole = run_train(monkeypatch, packed, tmp_path / "whole", 2)
    parts = run_train(monkeypatch, packed, tmp_path / "parts", 2, "--micro-rows", "1")
    # sums in another order under bf16: rounding only
    assert parts[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=2e-3)


def test_a_checkpoint_answers(monkeypatch, packed, tmp_path, tokenizer_file):
    run_train(monkeypatch, packed, tmp_path, 1)
    model = load_checkpoint(tmp_path / "checkpoint.pt")
    carried = load_checkpoint(tmp_path / "weights.pt")
    assert torch.equal(carried.embed.weight, model.embed.weight.bfloat16().float())
    reply = answer(model, Tokenizer.from_file(str(tokenizer_file)), "你好", max_tokens=3)
    assert isinstance(reply, str)


def test_training_needs_torch_and_numpy_only():
    code = (
        "import sys\n"
        "for name in ('safetensors', 'tokenizers', 'transformers', 'zstandard', 'minijinja'):\n"
        "    sys.modules[name] = None\n"
        "import autoglm.lite.train, autoglm.lite.ship\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_an_empty_folder_of_rows_is_refused(tmp_path):
    (tmp_path / "card.json").write_text('{"row_tokens": 8}')
    with pytest.raises(InvalidRequestError, match="no packed rows"):
        PackedRows(tmp_path)


def test_an_epoch_reads_a_span_as_often_as_its_repeat_says():
    order = RowOrder([Span(0, 10, 2.5), Span(10, 4, 0.5)], seed=3)
    counts = Counter(order.rows(0, order.epoch_rows))
    assert order.epoch_rows == 27
    assert {counts[row] for row in range(10)} == {2, 3}
    assert sum(counts[row] for row in range(10, 14)) == 2


def test_every_epoch_reads_every_row_once_in_another_order():
    spans = [Span(0, 50)]
    order = RowOrder(spans, seed=3)
    first, second = order.rows(0, 50), order.rows(50, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert RowOrder(spans, seed=3).rows(45, 10) == first[45:] + second[:5]


def test_schedule_warms_up_stays_and_decays():
    schedule = Schedule(warmup=0.1, decay_from=0.8, final=0.2)
    assert schedule.factor(0.05) == pytest.approx(0.5)
    assert schedule.factor(0.5) == 1.0
    assert schedule.factor(0.9) == pytest.approx(0.6)
    assert schedule.factor(1.0) == pytest.approx(0.2)


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(2, 96, 48, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.shape == (2, 48)
    # the quintic of Muon converges to a band around one, not to one
    assert values.min() > 0.5
    assert values.max() < 1.4
