"""`bench`, `score`, `doctor`, `convert`, `verify`: what they print for people and programs."""

import json
import math
import os

import pytest

from autoglm import _core
from autoglm.cli.bench import DRAFT_FIGURES, FIGURES
from autoglm.cli.score import windowed_nll
from autoglm.engine.model import load_model

NUM_IDS = 50


def test_bench_reports_median_min_and_max(autoglm, tiny_bundle):
    arguments = ("--prompt-tokens", 40, "--gen-tokens", 4, "--depth", 8, "--threads", 1)
    done = autoglm("bench", "--model", tiny_bundle, *arguments, "--repeat", 3, "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    for name in FIGURES:
        assert 0 < report[name]["min"] <= report[name]["median"] <= report[name]["max"]
    assert report["threads"] == 1
    assert report["isa"] in _core.cpu_info()["supported"]
    assert report["weights_bytes"] < (tiny_bundle / "model.safetensors").stat().st_size


def test_bench_prints_every_figure_for_people(autoglm, tiny_bundle):
    arguments = ("--prompt-tokens", 4, "--gen-tokens", 1, "--repeat", 1)
    out = autoglm("bench", "--model", tiny_bundle, *arguments).stdout
    assert all(name in out for name in FIGURES)
    assert not any(name in out for name in DRAFT_FIGURES)


def test_bench_reports_how_often_a_draft_model_is_right(autoglm, tiny_bundle):
    arguments = ("--model", tiny_bundle, "--draft-model", tiny_bundle, "--threads", 1)
    arguments += ("--prompt-tokens", 4, "--gen-tokens", 150, "--repeat", 1)
    report = json.loads(autoglm("bench", *arguments, "--json").stdout)
    assert report["drafted_tokens"]["median"] > 0
    assert report["draft_acceptance"]["median"] == 1.0
    assert "draft_acceptance           1.00" in autoglm("bench", *arguments).stdout


def test_bench_goes_beyond_the_models_context_with_a_window(autoglm, tiny_bundle):
    arguments = ("bench", "--model", tiny_bundle, "--depth", 9000, "--repeat", 1)
    assert "the model's context is" in autoglm(*arguments).stderr
    report = json.loads(autoglm(*arguments, "--window", 64, "--json").stdout)
    assert (report["depth"], report["window"]) == (9000, 64)


def test_score_agrees_with_the_model(autoglm, tiny_bundle, meeting):
    report = json.loads(
        autoglm("score", "--model", tiny_bundle, "--file", meeting, "--json").stdout
    )
    with load_model(tiny_bundle) as model:
        ids = model.tokenizer.encode(meeting.read_text(encoding="utf-8"))
        nll = model.score(ids)
    assert report["num_tokens"] == len(ids) - 1
    assert report["nll"] == pytest.approx(nll, rel=1e-6)
    assert report["perplexity"] == pytest.approx(math.exp(nll / (len(ids) - 1)), rel=1e-6)


def test_score_takes_the_model_from_the_settings(autoglm, tiny_bundle, meeting, monkeypatch):
    monkeypatch.setenv("AUTOGLM_MODEL", str(tiny_bundle))
    done = autoglm("score", "--file", meeting, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["num_tokens"] > 0


@pytest.mark.parametrize(("window", "stride"), [(10, 5), (10, 9), (10, 1), (7, 3), (49, 20)])
def test_windows_score_every_token_once_with_enough_context(window, stride):
    """A score that adds up what is known of each token shows what the windows saw."""
    seen = []

    def score(ids):
        return sum(1000.0 + min(position, 999) / 1000 for position in range(1, len(ids)))

    total = windowed_nll(
        range(NUM_IDS), score, window=window, stride=stride, on_progress=seen.append
    )
    assert int(total) // 1000 == NUM_IDS - 1
    assert seen[-1] == NUM_IDS


def test_doctor_names_the_kernels_and_the_model(autoglm, tiny_bundle):
    done = autoglm("doctor", "--model", tiny_bundle, "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0
    assert report["engine"]["isa"] in report["engine"]["supported"]
    assert "scalar" in report["engine"]["supported"]
    assert report["model"]["architecture"] == "GlmForCausalLM"
    assert report["machine"]["physical_cores"] >= 1


def test_doctor_ends_1_when_the_model_is_unusable(autoglm, tmp_path):
    done = autoglm("doctor", "--model", tmp_path)
    assert done.exit_code == 1
    assert "unusable" in done.stdout


def test_doctor_shows_a_forced_instruction_set(autoglm_process, tiny_bundle):
    environment = {**os.environ, "AUTOGLM_ISA": "scalar"}
    done = autoglm_process("doctor", "--model", tiny_bundle, "--json", env=environment)
    assert json.loads(done.stdout)["engine"]["isa"] == "scalar"


def test_convert_and_verify_go_together(autoglm, tiny_checkpoint, tmp_path):
    out = tmp_path / "bundle"
    converted = autoglm("convert", tiny_checkpoint, out, "--weights", "int4", "--json")
    assert json.loads(converted.stdout)["weights"] == "int4"
    assert autoglm("verify", out).exit_code == 0
    with (out / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    damaged = autoglm("verify", out)
    assert damaged.exit_code == 1
    assert "model.safetensors" in damaged.stdout + damaged.stderr


def test_doctor_names_the_instruction_sets_when_the_forced_one_is_none(
    autoglm_process, tiny_bundle
):
    environment = {**os.environ, "AUTOGLM_ISA": "mmx"}
    done = autoglm_process("doctor", "--model", tiny_bundle, "--json", env=environment)
    assert done.exit_code == 1
    assert "scalar, avx2, avx512, amx" in json.loads(done.stdout)["engine"]["problem"]
