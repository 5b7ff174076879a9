"""`profile` from end to end on a tiny bundle: tables, JSON, the plot and the trace."""

import json
from xml.etree import ElementTree

import pytest

from autoglm.telemetry.plot import COLORS

WORK = ("--prompt-tokens", 20, "--gen-tokens", 3, "--depth", 8, "--threads", 1)
LAYER_STEPS = {
    "input_norm",
    "qkv",
    "rope_store",
    "attention",
    "output",
    "mlp_norm",
    "gate_up",
    "down",
}
OTHER_STEPS = {"embed", "angles", "final_norm", "head"}


def test_json_covers_every_layer_and_step(autoglm, tiny_bundle):
    done = autoglm("profile", "--model", tiny_bundle, *WORK, "--json")
    report = json.loads(done.stdout)
    config = json.loads((tiny_bundle / "config.json").read_text(encoding="utf-8"))
    assert (done.exit_code, done.stderr) == (0, "")
    assert [phase["tokens"] for phase in report["phases"]] == [20, 3]
    for phase in report["phases"]:
        assert len(phase["layers"]) == config["num_hidden_layers"]
        assert all(set(layer["steps"]) == LAYER_STEPS for layer in phase["layers"])
        assert set(phase["steps"]) == LAYER_STEPS | OTHER_STEPS
        assert 0 < sum(step["seconds"] for step in phase["steps"].values()) <= phase["seconds"]
    assert report["limits"]["read_bytes_per_s"] > 0
    assert report["limits"]["operations_per_s"] > 0


def test_the_cache_is_read_as_far_as_it_is_filled(autoglm, tiny_bundle):
    report = json.loads(autoglm("profile", "--model", tiny_bundle, *WORK, "--json").stdout)
    prompt, generation = report["phases"]
    token_bytes = prompt["kv_written_bytes"] / 20
    assert prompt["kv_read_bytes"] == 28 * token_bytes
    # The tokens generated see 29, 30 and 31.
    assert generation["kv_read_bytes"] == (29 + 30 + 31) * token_bytes


def test_people_see_steps_layers_and_the_cache(autoglm, tiny_bundle):
    out = autoglm("profile", "--model", tiny_bundle, *WORK).stdout
    assert all(f"\n{step}" in out for step in LAYER_STEPS | OTHER_STEPS)
    assert "\nlayer 0" in out
    assert out.count("KV cache: wrote") == 2


def test_plot_and_trace_are_written(autoglm, tiny_bundle, tmp_path):
    files = ("--trace", tmp_path / "trace.json", "--plot", tmp_path / "plot.svg")
    assert autoglm("profile", "--model", tiny_bundle, *WORK, *files).exit_code == 0
    document = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    names = {event["name"] for event in document["traceEvents"]}
    assert LAYER_STEPS | OTHER_STEPS | {"prompt", "generation", "layer 0"} <= names
    assert set(COLORS) >= LAYER_STEPS | OTHER_STEPS
    assert ElementTree.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("--plot", "plot.png", ".svg"),
        ("--trace", "trace.txt", ".json"),
        ("--plot", "none/plot.svg", "no directory"),
    ],
)
def test_a_file_that_could_not_be_written_is_refused_first(
    autoglm, tiny_bundle, tmp_path, option, name, reason
):
    done = autoglm("profile", "--model", tiny_bundle, *WORK, option, tmp_path / name)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert reason in done.stderr


def test_work_beyond_the_context_is_refused(autoglm, tiny_bundle):
    done = autoglm("profile", "--model", tiny_bundle, "--prompt-tokens", 10**6)
    assert done.exit_code == 2
    assert "context" in done.stderr
