"""The turns of `make bench-peers`, what it concludes from samples, and the runners' speech."""

import sys
from pathlib import Path

import pytest
from mixed_weights import parse_mixture
from peers.engines import FAST, OURS, RECIPE, Engine, Form
from peers.llama_checkpoint import llama_header
from peers.rows import is_close, median_of
from peers.summary import Results, documents, table
from peers.targets import LARGE, Scale, rows_of
from peers.turn import PeerError, Timing, Turn, quietest
from peers.workload import DECODE, MEMORY_PEAK, PREFILL, ROWS, Sample
from quality import Score
from quiet import MAX_OTHER_CPUS

SCALE = Scale(
    weights_mib=700.0,
    read_bytes_per_s=32e9,
    operations_per_s=14e12,
    token_operations={512: 2.8e9, 2048: 3e9},
)
RUNNER = """
import sys
print("a library says hello")
print('{"ready": "a peer"}', flush=True)
for line in sys.stdin:
    print('{"seconds": [0.5, 0.25]}', flush=True)
"""


def sample(engine: str, row: str, value: float, other_cpus: float | None = 0.0) -> Sample:
    return Sample(engine=engine, model=LARGE, row=row, round=0, value=value, other_cpus=other_cpus)


def peer(code: str) -> Engine:
    return Engine(name="peer", form=FAST, command=(sys.executable, "-c", code))


def score(text: str, form: Form, rise: float) -> Score:
    return Score(
        text=text,
        weights=form.weights,
        activation_bits=form.activation_bits,
        kv_dtype=form.kv_dtype,
        perplexity=2.0,
        rise_percent=rise,
    )


def test_noisy_samples_do_not_count_beside_quiet_ones():
    noisy = sample("torch", PREFILL, 900.0, 2 * MAX_OTHER_CPUS)
    middle = median_of([sample("torch", PREFILL, 400.0), noisy])
    assert (middle.value, middle.is_noisy) == (400.0, False)
    assert median_of([noisy]).is_noisy


def test_ratio_is_to_the_best_peer_and_judged_by_the_targets():
    (row,) = rows_of(
        [
            sample(OURS, PREFILL, 1300.0),
            sample("torch", PREFILL, 400.0),
            sample("llama.cpp", PREFILL, 180.0),
        ],
        SCALE,
    )
    assert (row.best_peer, row.ratio) == ("torch", 3.25)
    assert row.must is not None
    assert row.aim is not None
    assert row.must.is_met(row)
    assert (row.aim.text, row.aim.is_met(row)) == ("≥ 50% of the int8 peak (2500)", False)


def test_row_states_memory_and_quality_of_ours_and_of_the_best_peer():
    q4_0 = Form("Q4_0", "q4_0")
    results = Results(
        samples=[
            sample(OURS, DECODE, 34.0),
            sample(OURS, MEMORY_PEAK, 800.0, None),
            sample("llama.cpp", DECODE, 27.0),
            sample("llama.cpp", MEMORY_PEAK, 1900.0, None),
        ],
        scale=SCALE,
        forms={OURS: FAST, "llama.cpp": q4_0},
        scores=[score("a", FAST, 3.0), score("b", FAST, 1.5), score("a", q4_0, 6.0)],
    )
    document = documents(results)[0]
    assert document["autoglm"]["peak_rss_mib"] == 800
    assert document["autoglm"]["perplexity_rise_percent"] == [1.5, 3.0]
    assert document["best_peer"]["perplexity_rise_percent"] == [6.0, 6.0]
    line = next(line for line in table(results).splitlines() if DECODE in line)
    assert line.endswith("| 800 / 1900 | +1.5 to +3.0 % / +6.0 % |")


@pytest.mark.parametrize(("rise", "is_met"), [(1.9, True), (2.1, False)])
def test_quality_of_the_recipe_is_judged_on_answers(rise, is_met):
    scores = [score("answers", RECIPE, rise), score("other text", RECIPE, 5.0)]
    document = documents(Results([], SCALE, {}, scores))[-1]
    assert document["autoglm"]["median"] == rise
    assert document["must"] == {"target": "≤ 2", "is_met": is_met}


def test_peer_is_close_if_it_is_near_the_best_in_a_timed_row():
    samples = [
        sample(OURS, PREFILL, 1300.0),
        sample("torch", PREFILL, 400.0),
        sample("torch", DECODE, 5.0),
        sample("slow", PREFILL, 90.0),
        sample("slow", DECODE, 20.0),
        sample("slow", ROWS, 1.0),
        sample("slow", MEMORY_PEAK, 1.0, None),
        sample("llama.cpp", DECODE, 27.0),
    ]
    close = {name: is_close(name, samples) for name in ("torch", "llama.cpp", "slow", "unknown")}
    assert close == {"torch": True, "llama.cpp": True, "slow": False, "unknown": True}


def test_row_without_our_sample_is_left_out():
    assert rows_of([sample("torch", DECODE, 5.0)], SCALE) == []


@pytest.mark.parametrize(("noise", "calls"), [([0.0], 1), ([1.0, 0.0], 2), ([1.0, 0.5, 0.9], 3)])
def test_timing_is_repeated_until_quiet(noise, calls):
    timings = iter([Timing((1.0,), others) for others in noise])
    assert quietest(lambda: next(timings), attempts=3).other_cpus == min(noise)
    assert len(list(timings)) == len(noise) - calls


def test_turn_reads_answers_and_skips_what_libraries_print():
    with Turn(peer(RUNNER)) as turn:
        assert turn.what == "a peer"
        assert turn.ask("prefill 512 2").seconds == (0.5, 0.25)
        assert turn.memory().private_mib > 0


def test_engine_that_ends_is_an_error_with_its_name():
    with pytest.raises(PeerError, match="peer: ended with 3"):
        Turn(peer("raise SystemExit(3)"))


def test_gate_and_up_become_two_tensors_over_the_same_bytes():
    entry = {"dtype": "BF16", "shape": [8, 4], "data_offsets": [100, 164]}
    header = llama_header({"model.layers.0.mlp.gate_up_proj.weight": entry})
    assert header == {
        "model.layers.0.mlp.gate_proj.weight": {
            "dtype": "BF16",
            "shape": [4, 4],
            "data_offsets": [100, 132],
        },
        "model.layers.0.mlp.up_proj.weight": {
            "dtype": "BF16",
            "shape": [4, 4],
            "data_offsets": [132, 164],
        },
    }


def test_last_matching_exception_of_a_mixture_counts():
    format_of = parse_mixture("int4,self_attn=int8,v_proj=fp32")
    names = ("mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj")
    assert [format_of(name) for name in names] == ["int4", "int8", "fp32"]


def test_runners_of_both_languages_use_one_generator():
    runners = Path(__file__).parents[2] / "benchmarks" / "runners"
    texts = [
        (runners / name).read_text(encoding="utf-8") for name in ("protocol.py", "llama_runner.cc")
    ]
    assert all("6364136223846793005" in text and "1442695040888963407" in text for text in texts)
