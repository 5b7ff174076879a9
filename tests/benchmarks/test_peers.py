"""What `make bench-peers` concludes from its samples, and the speech of the runners."""

import sys
from pathlib import Path

import pytest
from mixed_weights import parse_mixture
from peers.engines import OURS, Engine
from peers.llama_checkpoint import llama_header
from peers.rows import LARGE, Scale, median_of, rows_of, table
from peers.turn import PeerError, Timing, Turn, quietest
from peers.workload import DECODE, PREFILL, Sample
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
    return Engine(name="peer", weights="", command=(sys.executable, "-c", code))


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
    line = table([row]).splitlines()[-1]
    assert "≥ 3x met" in line
    assert "≥ 50% of the int8 peak (2500) **missed**" in line


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
