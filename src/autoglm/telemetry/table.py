"""A profile as tables of text: one by step and one by layer for each phase."""

from __future__ import annotations

from collections.abc import Iterable

from autoglm.telemetry.profile import KV_READ, KV_WRITE, Limits, Phase, Profile, Totals

LABEL_WIDTH = 12
COLUMNS = ("ms", "time", "MB", "Gop", "bandwidth", "peak")


def lines(profile: Profile) -> list[str]:
    """The report; generated tokens are averaged, a prompt is shown whole."""
    limits = profile.limits
    report = [
        f"{profile.model} ({profile.weights}), {profile.isa}, {profile.threads} threads",
        f"measured limits: {limits.read_bytes_per_s / 1e9:.1f} GB/s read, "
        f"{limits.operations_per_s / 1e12:.2f} Top/s",
    ]
    depth = profile.depth
    for phase in profile.phases:
        report += ["", *_phase_lines(phase, limits, depth)]
        depth += phase.num_tokens
    return report


def divisor(phase: Phase) -> int:
    """What sums are divided by to be shown: passes that each make one token are averaged."""
    is_one_by_one = all(event.num_tokens == 1 for event in phase.events)
    return max(1, phase.num_tokens) if is_one_by_one else 1


def _phase_lines(phase: Phase, limits: Limits, depth: int) -> list[str]:
    divided = divisor(phase)
    scope = f"mean of {divided} tokens" if divided > 1 else f"{phase.num_tokens} tokens"
    heading = (
        f"{phase.name}: {scope} after {depth}, {1e3 * phase.seconds / divided:.3f} ms "
        f"({phase.num_tokens / phase.seconds:.1f} tokens/s), "
        f"{1e3 * phase.outside_s / divided:.3f} ms outside the steps"
    )
    by_step = [(name, totals) for name, totals in phase.by_step.items()]
    by_layer = [(f"layer {layer}", totals) for layer, totals in phase.by_layer.items()]
    return [
        heading,
        *_rows([*by_step, ("all steps", phase.total)], phase, limits),
        "",
        *_rows(by_layer, phase, limits),
        "",
        _kv_line(phase),
    ]


def _rows(rows: Iterable[tuple[str, Totals]], phase: Phase, limits: Limits) -> list[str]:
    divided = divisor(phase)
    table = [" " * LABEL_WIDTH + "".join(f"{name:>10}" for name in COLUMNS)]
    for label, totals in rows:
        cells = (
            f"{1e3 * totals.seconds / divided:.3f}",
            f"{100 * totals.seconds / phase.seconds:.1f}%",
            f"{1e-6 * totals.num_bytes / divided:.3f}",
            f"{1e-9 * totals.operations / divided:.4f}",
            f"{100 * totals.bandwidth_share(limits):.1f}%",
            f"{100 * totals.peak_share(limits):.1f}%",
        )
        table.append(f"{label:<{LABEL_WIDTH}}" + "".join(f"{cell:>10}" for cell in cells))
    return table


def _kv_line(phase: Phase) -> str:
    divided = divisor(phase)
    steps = phase.by_step

    def cost(verb: str, step: str) -> str:
        totals = steps.get(step, Totals())
        return (
            f"{verb} {1e-6 * totals.kv_bytes / divided:.3f} MB in "
            f"{1e3 * totals.seconds / divided:.3f} ms "
            f"({100 * totals.seconds / phase.seconds:.1f}% of the time, {step})"
        )

    return f"KV cache: {cost('wrote', KV_WRITE)}; {cost('read', KV_READ)}"
