"""From samples to rows: our median, the best peer's, their ratio, and the targets of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from quiet import MAX_OTHER_CPUS

from peers import workload as w
from peers.engines import LIMITED_ISAS, OURS
from peers.product import LOOKUP_NEW, LOOKUP_QUOTES, PRODUCT, REQUESTS_P95
from peers.workload import Sample

MIB = 2**20
LARGE, SMALL, LITE = "glm-edge-1.5b", "small", "LITE"
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
class Scale:
    """What the absolute targets are measured by."""

    weights_mib: float
    read_bytes_per_s: float
    operations_per_s: float
    token_operations: dict[int, float]  # of a prompt token, by length of the prompt


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


def share_of(limit: float, share: float, text: str) -> Target:
    """Of a speed the machine allows."""
    return Target(
        f"≥ {share:.0%} of {text} ({share * limit:.0f})",
        lambda row: row.ours.value >= share * limit,
    )


def specs(scale: Scale, decode_speed: float) -> list[Spec]:
    """Every row with its targets; `decode_speed` is ours on an empty cache."""
    return [*large_specs(scale, decode_speed), *small_specs(), *lite_specs(), *limited_specs()]


def large_specs(scale: Scale, decode_speed: float) -> list[Spec]:
    """Of the model that memory holds back."""
    bandwidth = scale.read_bytes_per_s / (scale.weights_mib * MIB)
    resident = scale.weights_mib + 120

    def speed(name: str, must: float, aim: Target) -> Spec:
        return Spec(model=LARGE, name=name, unit="tokens/s", must=times_best(must), aim=aim)

    def cost(
        name: str, unit: str, must: Target | None, aim: Target | None, engine: str = OURS
    ) -> Spec:
        return Spec(
            model=LARGE,
            name=name,
            unit=unit,
            is_lower_better=True,
            engine=engine,
            must=must,
            aim=aim,
        )

    def peak(length: int) -> Target:
        limit = scale.operations_per_s / scale.token_operations[length]
        return share_of(limit, 0.5, "the int8 peak")

    fits = Target(f"≤ bundle + 120 ({resident:.0f})", lambda row: row.ours.value <= resident)
    return [
        speed(w.PREFILL, 3, peak(w.SHORT)),
        speed(w.PREFILL_LONG, 3, peak(w.LONG)),
        speed(w.DECODE, 1.25, share_of(bandwidth, 0.9, "read bandwidth")),
        speed(w.DECODE_DEEP, 1.8, share_of(decode_speed, 0.8, "decode @0")),
        cost(w.ROWS, "x", at_most(1.4), at_most(1.15)),
        cost(w.FIRST_TOKEN, "s", at_most(0.45), at_most(0.3), PRODUCT),
        cost(w.MEMORY_FIRST, "MiB", fits, None, PRODUCT),
        cost(w.MEMORY_PEAK, "MiB", None, None),
        cost(w.MEMORY_SECOND, "MiB", None, at_most(80)),
    ]


def small_specs() -> list[Spec]:
    """Of the model that caches hold."""
    targets = (
        (w.PREFILL, 2, 4),
        (w.PREFILL_LONG, 2, 4),
        (w.DECODE, 1.1, 1.5),
        (w.DECODE_DEEP, 2, 3),
    )
    speeds = [
        Spec(model=SMALL, name=name, unit="tokens/s", must=times_best(must), aim=times_best(aim))
        for name, must, aim in targets
    ]
    costs = ((w.ROWS, "x"), (w.FIRST_TOKEN, "s"), (w.MEMORY_FIRST, "MiB"))
    return speeds + [
        Spec(model=SMALL, name=name, unit=unit, is_lower_better=True) for name, unit in costs
    ]


def lite_specs() -> list[Spec]:
    """Of the product with its own model."""

    def cost(name: str, unit: str, must: float, aim: float) -> Spec:
        return Spec(
            model=LITE,
            name=name,
            unit=unit,
            is_lower_better=True,
            engine=PRODUCT,
            must=at_most(must),
            aim=at_most(aim),
        )

    def gain(name: str, must: float, aim: float | None) -> Spec:
        return Spec(
            model=LITE,
            name=name,
            unit="x",
            engine=PRODUCT,
            must=at_least(must),
            aim=None if aim is None else at_least(aim),
        )

    return [
        cost(w.FIRST_TOKEN, "s", 0.25, 0.15),
        cost(w.MEMORY_FIRST, "MiB", 110, 80),
        cost(REQUESTS_P95, "ms", 150, 80),
        gain(LOOKUP_QUOTES, 1.5, 2.5),
        gain(LOOKUP_NEW, 0.97, None),
    ]


def limited_specs() -> list[Spec]:
    """With all engines limited to an instruction set."""
    return [
        Spec(
            model=f"{LARGE}, {isa}",
            name=name,
            unit="tokens/s",
            must=times_best(1.0),
            aim=times_best(1.5),
        )
        for isa in LIMITED_ISAS
        for name in (w.PREFILL, w.DECODE)
    ]


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
    own_names = (OURS, PRODUCT)
    return Row(
        model=spec.model,
        name=spec.name,
        unit=spec.unit,
        is_lower_better=spec.is_lower_better,
        ours=median_of(found[spec.engine]),
        peers={name: median_of(some) for name, some in found.items() if name not in own_names},
        must=spec.must,
        aim=spec.aim,
    )


def rows_of(samples: Sequence[Sample], scale: Scale) -> list[Row]:
    """Every row that has a sample, in the order of the specs."""
    own = [s for s in samples if (s.engine, s.model, s.row) == (OURS, LARGE, w.DECODE)]
    decode_speed = median_of(own).value if own else 0.0
    found = (row_of(spec, samples) for spec in specs(scale, decode_speed))
    return [row for row in found if row is not None]


def verdict(row: Row, target: Target | None) -> str:
    """The target and whether it is met."""
    if target is None:
        return ""
    return f"{target.text} {'met' if target.is_met(row) else '**missed**'}"


def number(value: float) -> str:
    """Three significant digits, whole numbers from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | row | autoglm (min, max) | best peer | ratio | must | aim |",
        "|--|--|--|--|--|--|--|",
    ]
    for row in rows:
        own = f"{number(row.ours.value)} {row.unit}"
        if row.ours.count > 1:
            own += f" ({number(row.ours.low)}, {number(row.ours.high)})"
        peer = ratio = ""
        is_noisy = row.ours.is_noisy
        if row.best_peer is not None and row.ratio is not None:
            best = row.peers[row.best_peer]
            peer, ratio = f"{number(best.value)} {row.best_peer}", f"{row.ratio:.2f}x"
            is_noisy = is_noisy or best.is_noisy
        own += " (noisy)" if is_noisy else ""
        cells = (
            row.model,
            row.name,
            own,
            peer,
            ratio,
            verdict(row, row.must),
            verdict(row, row.aim),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
