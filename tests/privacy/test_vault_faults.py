"""A slice of the long runs of `make vault-faults`: kills, power losses and the control."""

from tools.vault_kills import kill_often
from tools.vault_power_loss import try_states


def test_killed_writers_lose_nothing_that_was_acknowledged():
    outcome = kill_often(25, seed=3)
    assert outcome.faults == []
    assert outcome.num_acked > 25
    assert outcome.num_rotations > 5


def test_power_losses_lose_nothing_that_was_acknowledged():
    outcome = try_states(250, seed=3)
    assert outcome.faults == []
    assert outcome.num_with_records > 200


def test_power_losses_without_syncs_are_found_to_lose_records():
    assert len(try_states(60, seed=3, has_syncs=False).faults) > 5
