"""The simulator finds no fault in a thousand worlds, and finds every deliberate bug."""

import pytest
from tests.sync.simulation.controls import CONTROLS, run_broken
from tests.sync.simulation.world import World

NUM_SEEDS = 1_000
SLICE = 50
CONTROL_SEEDS = 200


@pytest.mark.parametrize("start", range(0, NUM_SEEDS, SLICE))
def test_worlds_lose_nothing_agree_and_come_to_rest(start):
    faults = {seed: World(seed).run() for seed in range(start, start + SLICE)}
    assert {seed: found for seed, found in faults.items() if found} == {}


@pytest.mark.parametrize("seed", [14_426])
def test_worlds_in_which_a_fault_was_found_stay_whole(seed):
    """A base that came before what is built on it was dropped and not asked for again."""
    assert World(seed).run() == []


def test_a_seed_repeats_exactly():
    first, second = World(7), World(7)
    assert first.run() == second.run()
    assert first.hub.live() == second.hub.live()
    assert first.oracle.writes == second.oracle.writes


@pytest.mark.parametrize("control", CONTROLS)
def test_deliberate_bug_is_found(control):
    assert any(run_broken(control, seed) for seed in range(CONTROL_SEEDS))
