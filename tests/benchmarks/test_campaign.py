"""A run of `make bench-peers` can be cut off, resumed and asked for single rows."""

import sys

import pytest
from peers.campaign import Campaign, OutOfTimeError, Part
from peers.engines import FAST, OURS, Engine
from peers.turn import PeerError
from peers.workload import DECODE, MEMORY_SECOND, PREFILL, Workload

ENGINE = """
import sys
print('{"ready": "an engine"}', flush=True)
for line in sys.stdin:
    print('{"seconds": [0.5, 0.25]}', flush=True)
"""
WORK = Workload(short_repeats=1, long_repeats=1, decode_tokens=16, rows_repeats=1, has_depth=False)


def engine(name: str, code: str = ENGINE) -> Engine:
    return Engine(name=name, form=FAST, command=(sys.executable, "-c", code))


def part(*others: Engine, own: Engine | None = None) -> Part:
    return Part(label="model", own=own or engine(OURS), others=others, work=WORK)


@pytest.fixture
def campaign(tmp_path):
    return Campaign(path=tmp_path / "run.json", head={"time": "now"}, attempts=1)


def turns(campaign: Campaign) -> list[tuple[str, int]]:
    return [(s.engine, s.round) for s in campaign.samples if s.row == PREFILL]


def test_each_peer_has_a_turn_of_ours_before_it(campaign):
    campaign.measure_round(part(engine("a"), engine("b")), 0)
    assert turns(campaign) == [(OURS, 0), ("a", 0), (OURS, 0), ("b", 0)]
    pairs = [s.engine for s in campaign.samples if s.row == MEMORY_SECOND]
    assert pairs == [OURS, "a", "b"]


def test_resumed_run_measures_what_its_file_lacks(campaign):
    campaign.measure_round(part(engine("a")), 0)
    resumed = Campaign.read(campaign.path)
    assert (resumed.head, resumed.samples) == (campaign.head, campaign.samples)
    resumed.attempts = 1
    resumed.measure_round(part(engine("a"), engine("b")), 0)
    assert turns(resumed) == [(OURS, 0), ("a", 0), (OURS, 0), ("b", 0)]


def test_only_the_rows_asked_for_are_measured_and_forgotten(campaign):
    campaign.measure_round(part(engine("a")), 0)
    before = len(campaign.samples)
    campaign.row_names = [DECODE]
    campaign.forget({("a", "model")})
    assert len(campaign.samples) == before - 1
    campaign.measure_round(part(engine("a")), 0)
    assert [(s.engine, s.row) for s in campaign.samples[-2:]] == [(OURS, DECODE), ("a", DECODE)]
    assert len(campaign.samples) == before + 1


def test_peer_that_fails_is_left_out_but_not_ours(campaign):
    broken = engine("broken", "raise SystemExit(3)")
    campaign.measure_round(part(broken, engine("a")), 0)
    assert turns(campaign) == [(OURS, 0), ("a", 0)]
    with pytest.raises(PeerError, match="ended with 3"):
        campaign.measure_round(part(engine("b"), own=engine(OURS, "raise SystemExit(3)")), 0)


def test_no_turn_starts_after_the_deadline(campaign):
    campaign.deadline = 0.0
    with pytest.raises(OutOfTimeError):
        campaign.measure_round(part(engine("a")), 0)
    assert not campaign.path.exists()
