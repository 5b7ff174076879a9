"""What `make bench` concludes from what it measured."""

import itertools
from dataclasses import replace

import pytest
from figures import Figure, table
from quiet import MAX_OTHER_CPUS, measured

FIGURE = Figure(
    name="exec to first token",
    unit="ms",
    value=300.0,
    low=290.0,
    high=450.0,
    runs=10,
    other_cpus=0.0,
    limit=500.0,
)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"value": 501.0}, "FAIL"),
        ({"is_ceiling": False}, "FAIL"),
        ({"is_ceiling": False, "value": 501.0}, "pass"),
        ({"other_cpus": 2 * MAX_OTHER_CPUS}, "pass (noisy)"),
        ({"limit": None}, ""),
    ],
)
def test_verdict_follows_the_limit_and_the_noise(changes, verdict):
    assert replace(FIGURE, **changes).verdict == verdict


def test_table_states_spread_and_target():
    row = table([FIGURE]).splitlines()[-1]
    assert row == "| exec to first token | 300.0 (290.0, 450.0) ms | ≤ 500 | pass |"


def test_noisy_runs_are_repeated_and_the_quietest_counts(monkeypatch):
    seconds = itertools.count(step=10.0)
    monkeypatch.setattr("quiet.busy_seconds", lambda ticks: next(seconds))
    calls = itertools.count(1)
    run = measured(lambda: next(calls), attempts=3)
    assert next(calls) == 4
    assert not run.is_quiet


def test_quiet_run_is_not_repeated(monkeypatch):
    monkeypatch.setattr("quiet.busy_seconds", lambda ticks: 0.0)
    run = measured(lambda: "value", attempts=3)
    assert (run.value, run.other_cpus) == ("value", 0.0)
