"""The rows of the table and what is demanded of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quality import Score

from peers import workload as w
from peers.engines import CLOSER, LIMITED_ISAS, OURS, PRODUCT, RECIPE
from peers.product import LOOKUP_NEW, LOOKUP_QUOTES, REQUESTS_P95
from peers.rows import (
    Median,
    Row,
    Spec,
    Target,
    at_least,
    at_most,
    median_of,
    row_of,
    times_best,
)
from peers.workload import Sample

MIB = 2**20
LARGE, SMALL, LITE = "glm-edge-1.5b", "small", "LITE"
ANSWERS = "answers"  # the name of the packed rows in the quality table


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What the absolute targets are measured by."""

    weights_mib: float
    read_bytes_per_s: float
    operations_per_s: float
    token_operations: dict[int, float]  # of a prompt token, by length of the prompt


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
        Spec(model=LARGE, name=w.ROWS_SPEED, unit="tokens/s"),
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
    costs = ((w.ROWS, "x"), (w.FIRST_TOKEN, "s"), (w.MEMORY_FIRST, "MiB"), (w.MEMORY_PEAK, "MiB"))
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


def rows_of(samples: Sequence[Sample], scale: Scale) -> list[Row]:
    """Every row that has a sample, in the order of the specs."""
    own = [s for s in samples if (s.engine, s.model, s.row) == (OURS, LARGE, w.DECODE)]
    decode_speed = median_of(own).value if own else 0.0
    found = (row_of(spec, samples) for spec in specs(scale, decode_speed))
    return [row for row in found if row is not None]


def quality_rows(scores: Sequence[Score]) -> list[Row]:
    """What the int4 recipes and the int8 cache cost LITE; on answers, and the span of all texts."""
    rows = [
        (f"perplexity rise, `{form.weights.replace('model.layers.', '')}`", rises, 2.0)
        for form in (RECIPE, CLOSER)
        if (rises := {s.text: s.rise_percent for s in scores if s.form == form.key})
    ]
    cached = {(s.text, s.kv_dtype): s.perplexity for s in scores if s.form[:2] == ("bf16", 16)}
    int8_cache = {
        text: 100 * (value / cached[text, "fp16"] - 1)
        for (text, kv_dtype), value in cached.items()
        if kv_dtype == "int8"
    }
    rows.append(("perplexity rise, int8 cache", int8_cache, 0.2))
    return [_rise_row(name, rises, limit) for name, rises, limit in rows if ANSWERS in rises]


def _rise_row(name: str, rises: dict[str, float], limit: float) -> Row:
    values = rises.values()
    middle = Median(
        value=rises[ANSWERS], low=min(values), high=max(values), count=len(values), is_noisy=False
    )
    return Row(
        model=LITE,
        name=name,
        unit="%",
        is_lower_better=True,
        engine=PRODUCT,
        ours=middle,
        peers={},
        must=at_most(limit),
        aim=None,
    )
