"""What the steps of forward passes took, summed and compared with the limits of the machine.

Pure: the engine gives the events; tables, plots and traces are made of the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

NO_LAYER = -1  # of a step before or after the layers
KV_WRITE, KV_READ = "rope_store", "attention"

Key = TypeVar("Key", bound=Hashable)


class StepEvent(NamedTuple):
    """One step of one forward pass; `num_bytes` and `operations` are what it cannot avoid."""

    step: str
    layer: int
    num_tokens: int
    start_s: float
    seconds: float
    num_bytes: int
    operations: int
    kv_bytes: int  # those of num_bytes that belong to the KV cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the machine can do at best, measured with all threads."""

    read_bytes_per_s: float
    operations_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Events added up."""

    num_events: int = 0
    seconds: float = 0.0
    num_bytes: int = 0
    operations: int = 0
    kv_bytes: int = 0

    def plus(self, event: StepEvent) -> Totals:
        """With one event more."""
        return Totals(
            num_events=self.num_events + 1,
            seconds=self.seconds + event.seconds,
            num_bytes=self.num_bytes + event.num_bytes,
            operations=self.operations + event.operations,
            kv_bytes=self.kv_bytes + event.kv_bytes,
        )

    def bandwidth_share(self, limits: Limits) -> float:
        """The bytes per second as a share of the limit; above 1 when they came from a cache."""
        return _share(self.num_bytes, self.seconds * limits.read_bytes_per_s)

    def peak_share(self, limits: Limits) -> float:
        """The operations per second as a share of the limit."""
        return _share(self.operations, self.seconds * limits.operations_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Reading the prompt, or writing tokens: the events and the time around them."""

    name: str
    num_tokens: int
    seconds: float
    events: tuple[StepEvent, ...]

    @property
    def total(self) -> Totals:
        """Of all steps."""
        return sums(self.events, lambda _event: None).get(None, Totals())

    @property
    def by_step(self) -> dict[str, Totals]:
        """In the order of a pass."""
        return sums(self.events, lambda event: event.step)

    @property
    def by_layer(self) -> dict[int, Totals]:
        """Of the layers only, in order."""
        inside = (event for event in self.events if event.layer != NO_LAYER)
        return dict(sorted(sums(inside, lambda event: event.layer).items()))

    @property
    def by_layer_and_step(self) -> dict[tuple[int, str], Totals]:
        """Steps outside the layers have NO_LAYER."""
        return sums(self.events, lambda event: (event.layer, event.step))

    @property
    def outside_s(self) -> float:
        """Time that belongs to no step: sampling, the cache's tables, the calls."""
        return max(0.0, self.seconds - self.total.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Both phases of one model on one machine."""

    model: str
    weights: str
    isa: str
    threads: int
    depth: int
    limits: Limits
    phases: tuple[Phase, ...]


def sums(events: Iterable[StepEvent], key: Callable[[StepEvent], Key]) -> dict[Key, Totals]:
    """Events added up by a key, in the order in which keys first appear."""
    found: dict[Key, Totals] = {}
    for event in events:
        found[key(event)] = found.get(key(event), Totals()).plus(event)
    return found


def as_json(profile: Profile) -> dict[str, Any]:
    """Every sum, for programs."""
    return {
        "model": profile.model,
        "weights": profile.weights,
        "isa": profile.isa,
        "threads": profile.threads,
        "depth": profile.depth,
        "limits": {
            "read_bytes_per_s": profile.limits.read_bytes_per_s,
            "operations_per_s": profile.limits.operations_per_s,
        },
        "phases": [_phase_json(phase, profile.limits) for phase in profile.phases],
    }


def _phase_json(phase: Phase, limits: Limits) -> dict[str, Any]:
    steps = phase.by_step
    cells = phase.by_layer_and_step
    return {
        "name": phase.name,
        "tokens": phase.num_tokens,
        "seconds": phase.seconds,
        "outside_s": phase.outside_s,
        "kv_written_bytes": steps.get(KV_WRITE, Totals()).kv_bytes,
        "kv_read_bytes": steps.get(KV_READ, Totals()).kv_bytes,
        "steps": {step: _totals_json(totals, limits) for step, totals in steps.items()},
        "layers": [
            {
                "layer": layer,
                **_totals_json(totals, limits),
                "steps": {
                    step: _totals_json(cell, limits)
                    for (of_layer, step), cell in cells.items()
                    if of_layer == layer
                },
            }
            for layer, totals in phase.by_layer.items()
        ],
    }


def _totals_json(totals: Totals, limits: Limits) -> dict[str, float]:
    return {
        "seconds": totals.seconds,
        "bytes": totals.num_bytes,
        "operations": totals.operations,
        "bandwidth_share": totals.bandwidth_share(limits),
        "peak_share": totals.peak_share(limits),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
