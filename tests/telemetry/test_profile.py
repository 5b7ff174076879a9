"""What is made of the steps of a profile: sums, shares, tables, the plot and the trace."""

import json
from xml.etree import ElementTree

import pytest

from autoglm.telemetry import table
from autoglm.telemetry.plot import COLORS, svg
from autoglm.telemetry.profile import NO_LAYER, Limits, Phase, Profile, StepEvent, as_json
from autoglm.telemetry.trace import trace

LIMITS = Limits(read_bytes_per_s=1e9, operations_per_s=1e12)
LAYER_STEPS = ("qkv", "rope_store", "attention")
STEP_S = 0.001
SVG = "{http://www.w3.org/2000/svg}"


def events(num_passes: int, num_tokens: int) -> tuple[StepEvent, ...]:
    """Passes over two layers; every step lasts a millisecond and moves half a megabyte."""
    made: list[StepEvent] = []

    def add(step: str, layer: int) -> None:
        kv_bytes = 100 if step in ("rope_store", "attention") else 0
        start_s = STEP_S * len(made)
        made.append(
            StepEvent(step, layer, num_tokens, start_s, STEP_S, 500_000, 250_000_000, kv_bytes)
        )

    for _ in range(num_passes):
        add("embed", NO_LAYER)
        for layer in range(2):
            for step in LAYER_STEPS:
                add(step, layer)
        add("head", NO_LAYER)
    return tuple(made)


@pytest.fixture
def profile() -> Profile:
    """A prompt of one pass and four generated tokens."""
    return Profile(
        model="<tiny> & small",
        weights="int8",
        isa="scalar",
        threads=1,
        depth=10,
        limits=LIMITS,
        phases=(
            Phase(name="prompt", num_tokens=20, seconds=0.010, events=events(1, 20)),
            Phase(name="generation", num_tokens=4, seconds=0.036, events=events(4, 1)),
        ),
    )


def test_sums_by_step_and_by_layer_hold_every_event_once(profile):
    phase = profile.phases[1]
    inside = sum(totals.num_events for totals in phase.by_layer.values())
    assert list(phase.by_step) == ["embed", *LAYER_STEPS, "head"]
    assert phase.by_step["qkv"].num_events == 4 * 2
    assert inside == 4 * 2 * len(LAYER_STEPS)
    assert sum(totals.num_events for totals in phase.by_step.values()) == len(phase.events)
    assert phase.by_layer_and_step[1, "attention"].seconds == pytest.approx(4 * STEP_S)
    assert phase.total.num_bytes == 500_000 * len(phase.events)


def test_shares_compare_rates_with_the_limits(profile):
    totals = profile.phases[0].by_step["qkv"]
    assert totals.bandwidth_share(LIMITS) == pytest.approx(0.5)
    assert totals.peak_share(LIMITS) == pytest.approx(0.25)


def test_time_of_no_step_is_told(profile):
    assert profile.phases[0].outside_s == pytest.approx(0.010 - 8 * STEP_S)


def test_a_phase_without_steps_has_no_shares():
    phase = Phase(name="prompt", num_tokens=1, seconds=0.5, events=())
    assert phase.total.bandwidth_share(LIMITS) == 0.0
    assert phase.outside_s == 0.5


def test_json_holds_layers_steps_and_the_cost_of_the_cache(profile):
    report = json.loads(json.dumps(as_json(profile)))
    prompt, generation = report["phases"]
    assert [layer["layer"] for layer in prompt["layers"]] == [0, 1]
    assert set(prompt["layers"][0]["steps"]) == set(LAYER_STEPS)
    assert prompt["kv_written_bytes"] == prompt["kv_read_bytes"] == 2 * 100
    assert generation["steps"]["head"]["operations"] == 4 * 250_000_000


def test_the_table_averages_generated_tokens_and_shows_a_prompt_whole(profile):
    text = "\n".join(table.lines(profile))
    assert "prompt: 20 tokens after 10, 10.000 ms (2000.0 tokens/s)" in text
    assert "generation: mean of 4 tokens after 30, 9.000 ms (111.1 tokens/s)" in text
    rows = [line.split() for line in table.lines(profile) if line.startswith("qkv")]
    assert rows == [
        ["qkv", "2.000", share, "1.000", "0.5000", "50.0%", "25.0%"] for share in ("20.0%", "22.2%")
    ]
    assert text.count("layer 1") == 2


def test_the_trace_is_slices_that_enclose_each_other(profile):
    document = json.loads(json.dumps(trace(profile)))
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    kinds = [event["cat"] for event in slices]
    assert all({"name", "ts", "dur", "pid", "tid"} <= event.keys() for event in slices)
    assert kinds.count("phase") == 2
    assert kinds.count("pass") == 1 + 4
    assert kinds.count("layer") == 2 * (1 + 4)
    assert kinds.count("step") == 8 * (1 + 4)
    layer = next(event for event in slices if event["name"] == "layer 1")
    inside = [
        event["name"]
        for event in slices
        if event["cat"] == "step" and layer["ts"] <= event["ts"] < layer["ts"] + layer["dur"] - 1
    ]
    assert inside == list(LAYER_STEPS)


def test_the_trace_puts_phases_one_after_the_other(profile):
    first, second = (e for e in trace(profile)["traceEvents"] if e.get("cat") == "phase")
    assert second["ts"] == pytest.approx(first["ts"] + first["dur"]) == pytest.approx(10_000)


def test_the_plot_draws_every_step_of_every_layer(profile):
    root = ElementTree.fromstring(svg(profile))
    notes = [note.text for note in root.iter(f"{SVG}title")]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    for layer in range(2):
        for step in LAYER_STEPS:
            assert notes.count(f"layer {layer}, {step}: 1.0000 ms") == 2
    assert "<tiny> & small (int8), scalar, 1 threads" in texts
    assert all(step in COLORS for step in profile.phases[0].by_step)


def test_bars_of_the_plot_stay_inside_it(profile):
    root = ElementTree.fromstring(svg(profile))
    width = float(root.attrib["width"])
    bars = list(root.iter(f"{SVG}rect"))
    assert all(float(bar.attrib["height"]) >= 0 for bar in bars)
    assert all(float(b.attrib.get("x", 0)) + float(b.attrib["width"]) <= width for b in bars)
