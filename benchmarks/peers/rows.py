"""From samples to rows: our median, the best peer's, and their ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from quiet import MAX_OTHER_CPUS

from peers.engines import OURS, OWN_NAMES
from peers.workload import FIRST_TOKEN, ROWS, Sample

# After the first round a peer is measured on if it is so close to the best in a timed row.
CONTENDER = 1.25
Judge = Callable[["Row"], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """A demand on a row, in words and as a test; `ratio` if it is one to the best peer."""

    text: str
    is_met: Judge
    ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Median:
    """Of the quiet samples of one engine; of all of them, and marked, where none was quiet."""

    value: float
    low: float
    high: float
    count: int
    is_noisy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. `ratio` above 1 means that ours is better."""

    model: str
    name: str
    unit: str
    is_lower_better: bool
    engine: str
    ours: Median
    peers: dict[str, Median]
    must: Target | None
    aim: Target | None

    @property
    def best_peer(self) -> str | None:
        """The peer to beat."""
        if not self.peers:
            return None
        pick = min if self.is_lower_better else max
        return pick(self.peers, key=lambda name: self.peers[name].value)

    @property
    def ratio(self) -> float | None:
        """Ours to the best peer."""
        if self.best_peer is None:
            return None
        peer = self.peers[self.best_peer].value
        return peer / self.ours.value if self.is_lower_better else self.ours.value / peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A row to look for, and what is demanded of it."""

    model: str
    name: str
    unit: str
    is_lower_better: bool = False
    engine: str = OURS
    must: Target | None = None
    aim: Target | None = None


def at_least(value: float) -> Target:
    """Of our own value."""
    return Target(f"≥ {value:g}", lambda row: row.ours.value >= value)


def at_most(value: float) -> Target:
    """Of our own value."""
    return Target(f"≤ {value:g}", lambda row: row.ours.value <= value)


def times_best(ratio: float) -> Target:
    """Of the best peer."""
    return Target(f"≥ {ratio:g}x", lambda row: row.ratio is not None and row.ratio >= ratio, ratio)


def median_of(samples: Sequence[Sample]) -> Median:
    """The middle of what counts."""
    quiet = [s for s in samples if s.other_cpus is None or s.other_cpus <= MAX_OTHER_CPUS]
    values = [sample.value for sample in quiet or samples]
    return Median(
        value=median(values),
        low=min(values),
        high=max(values),
        count=len(values),
        is_noisy=not quiet,
    )


def row_of(spec: Spec, samples: Iterable[Sample]) -> Row | None:
    """The row of a spec, if our engine has a sample of it."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        if (sample.model, sample.row) == (spec.model, spec.name):
            found.setdefault(sample.engine, []).append(sample)
    if spec.engine not in found:
        return None
    return Row(
        model=spec.model,
        name=spec.name,
        unit=spec.unit,
        is_lower_better=spec.is_lower_better,
        engine=spec.engine,
        ours=median_of(found[spec.engine]),
        peers={name: median_of(some) for name, some in found.items() if name not in OWN_NAMES},
        must=spec.must,
        aim=spec.aim,
    )


def is_close(engine: str, samples: Iterable[Sample]) -> bool:
    """Whether a peer may be the best in a timed row of one model, or has not been measured."""
    by_row: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        if sample.other_cpus is not None and sample.row != ROWS and sample.engine not in OWN_NAMES:
            by_row.setdefault(sample.row, {}).setdefault(sample.engine, []).append(sample)
    is_known = False
    for row, engines in by_row.items():
        if engine not in engines:
            continue
        is_known = True
        medians = {name: median_of(some).value for name, some in engines.items()}
        best = (min if row == FIRST_TOKEN else max)(medians.values())
        if max(medians[engine] / best, best / medians[engine]) <= CONTENDER:
            return True
    return not is_known
