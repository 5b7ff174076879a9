"""A profile in the Trace Event Format, which chrome://tracing and ui.perfetto.dev open.

Passes, layers and steps are slices of one track that enclose each other; times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from autoglm.telemetry.profile import NO_LAYER, Phase, Profile, StepEvent

PROCESS, TRACK = 1, 1
FIRST_STEP = "embed"


def trace(profile: Profile) -> dict[str, Any]:
    """The document; phases follow each other without the time between them."""
    label = f"{profile.model} ({profile.weights}, {profile.isa}, {profile.threads} threads)"
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": PROCESS, "args": {"name": "autoglm"}},
        {"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": TRACK, "args": {"name": label}},
    ]
    start_s = 0.0
    for phase in profile.phases:
        events.append(_slice(phase.name, "phase", start_s, phase.seconds))
        events += _phase_events(phase, start_s)
        start_s += phase.seconds
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _phase_events(phase: Phase, start_s: float) -> Iterator[dict[str, Any]]:
    for steps in _passes(phase.events):
        yield _enclosing(f"{steps[0].num_tokens} tokens", "pass", steps, start_s)
        for layer, group in groupby(steps, key=lambda event: event.layer):
            members = list(group)
            if layer != NO_LAYER:
                yield _enclosing(f"layer {layer}", "layer", members, start_s)
            yield from (_step(event, start_s) for event in members)


def _passes(events: tuple[StepEvent, ...]) -> Iterator[list[StepEvent]]:
    steps: list[StepEvent] = []
    for event in events:
        if event.step == FIRST_STEP and steps:
            yield steps
            steps = []
        steps.append(event)
    if steps:
        yield steps


def _step(event: StepEvent, start_s: float) -> dict[str, Any]:
    described = _slice(event.step, "step", start_s + event.start_s, event.seconds)
    described["args"] = {
        "tokens": event.num_tokens,
        "bytes": event.num_bytes,
        "operations": event.operations,
        "kv_bytes": event.kv_bytes,
    }
    return described


def _enclosing(name: str, kind: str, steps: list[StepEvent], start_s: float) -> dict[str, Any]:
    end_s = steps[-1].start_s + steps[-1].seconds
    return _slice(name, kind, start_s + steps[0].start_s, end_s - steps[0].start_s)


def _slice(name: str, kind: str, start_s: float, seconds: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": kind,
        "ts": 1e6 * start_s,
        "dur": 1e6 * seconds,
        "pid": PROCESS,
        "tid": TRACK,
    }
