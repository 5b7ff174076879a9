"""Renders the samples of bench_serve.py as the section of BENCHMARKS.md about the service."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "BENCHMARKS.md"
BEGIN, END = "<!-- serve: begin -->", "<!-- serve: end -->"
QUIET_CPUS = 0.1
Samples = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table: where it comes from, and what it should be."""

    title: str
    name: str
    key: str
    target: str = ""
    is_met: Callable[[float], bool] = lambda _value: True
    unit: str = ""
    scale: float = 1.0


def at_most(limit: float) -> Callable[[float], bool]:
    """Whether a value is no larger."""
    return lambda value: value <= limit


def percent(title: str, name: str, key: str, limit: float) -> Figure:
    """A share that should be at most `limit` percent."""
    target, is_met = f"≤ {limit:g} %", at_most(limit / 100)
    return Figure(
        title=title, name=name, key=key, target=target, is_met=is_met, unit=" %", scale=100
    )


FIGURES = (
    Figure(title="prompt of a long chat", name="turns", key="prompt_tokens", unit=" tokens"),
    Figure(title="its time to first token", name="turns", key="first_turn_ms", unit=" ms"),
    percent("second turn of it, of that time", "turns", "share", 10),
    percent("the same after a restart with saved KV", "restart", "share", 25),
    Figure(
        title="the same with loading the model",
        name="restart",
        key="with_loading_share",
        unit=" %",
        scale=100,
    ),
    Figure(
        title="added to the first token",
        name="overhead",
        key="added_first_token_ms",
        target="≤ 3 ms",
        is_met=at_most(3),
        unit=" ms",
    ),
    Figure(
        title="decode speed of the engine's",
        name="overhead",
        key="speed_share",
        target="≥ 97 %",
        is_met=lambda value: value >= 0.97,
        unit=" %",
        scale=100,
    ),
    Figure(
        title="bound to a schema, of free, in all slots",
        name="forms",
        key="at_once_share",
        target="≥ 90 %",
        is_met=lambda value: value >= 0.9,
        unit=" %",
        scale=100,
    ),
    Figure(
        title="the same for one stream",
        name="forms",
        key="alone_share",
        target="≥ 90 %",
        is_met=lambda value: value >= 0.9,
        unit=" %",
        scale=100,
    ),
    Figure(
        title="resident without a model",
        name="idle",
        key="resident_mib",
        target="≤ 70 MiB",
        is_met=at_most(70),
        unit=" MiB",
    ),
)


def render(path: Path, page: Path = PAGE) -> None:
    """Put the section of this result file into the page."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{section(saved)}\n{END}{after}", encoding="utf-8")


def section(saved: dict[str, Any]) -> str:
    """The whole section."""
    samples: Samples = saved["samples"]
    noisy = sum(one["other_cpus"] > QUIET_CPUS for one in samples)
    head = (
        f"{saved['time'][:10]}, 8 slots, 2 threads; {len(samples)} samples, {noisy} of them with "
    )
    head += "other programs on the processors."
    lines = ["| figure | model | measured | target |", "|--|--|--|--|"]
    lines += chat_lines(samples)
    for figure in FIGURES:
        for model in dict.fromkeys(one["model"] for one in samples):
            found = [one for one in samples if (one["name"], one["model"]) == (figure.name, model)]
            if found:
                lines.append(_line(figure, model, found))
    lines += endurance_lines(samples)
    return "\n".join([head, "", *lines])


def _line(figure: Figure, model: str, found: Samples) -> str:
    value = statistics.median(one[figure.key] for one in found)
    shown = f"{_number(value * figure.scale)}{figure.unit}"
    noisy = " (noisy)" if any(one["other_cpus"] > QUIET_CPUS for one in found) else ""
    return _row(figure.title, model, shown + noisy, figure.target, is_met=figure.is_met(value))


def _row(title: str, model: str, shown: str, target: str = "", *, is_met: bool = True) -> str:
    verdict = f"{target} {'met' if is_met else '**missed**'}" if target else ""
    return f"| {title} | {model} | {shown} | {verdict} |"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def chat_lines(samples: Samples) -> list[str]:
    """Streams at once against one, and against the other server."""
    speeds: dict[tuple[str, str], float] = {}
    lines = []
    for one in samples:
        if one["name"].startswith("chats "):
            speeds.setdefault((one["model"], one["name"]), 0.0)
    for model, name in speeds:
        found = [one for one in samples if (one["model"], one["name"]) == (model, name)]
        speed = statistics.median(one["tokens_per_s"] for one in found)
        gap = statistics.median(one["p95_gap_ms"] for one in found)
        speeds[model, name] = speed
        noisy = " (noisy)" if any(one["other_cpus"] > QUIET_CPUS for one in found) else ""
        shown = f"{_number(speed)} tokens/s, gaps P95 {_number(gap)} ms{noisy}"
        count = name.split()[1]
        lines.append(_row(f"{count} chats at once" if count != "1" else "one chat", model, shown))
    many = sorted({name for _, name in speeds} - {"chats 1"})
    for model in ("large", "LITE"):
        for name in many:
            if (model, name) in speeds:
                ratio = speeds[model, name] / speeds[model, "chats 1"]
                target = "≥ 2x" if model == "large" else ""
                shown = f"{ratio:.2f}x"
                lines.append(_row("all against one", model, shown, target, is_met=ratio >= 2))
    for name in many:
        if ("large", name) in speeds and ("llama.cpp", name) in speeds:
            ratio = speeds["large", name] / speeds["llama.cpp", name]
            shown, is_met = f"{ratio:.2f}x", ratio >= 1.5
            lines.append(_row("all against llama.cpp", "large", shown, "≥ 1.5x", is_met=is_met))
    return lines


def endurance_lines(samples: Samples) -> list[str]:
    """Those whose figures belong together."""
    lines = []
    for one in samples:
        model = one["model"]
        noisy = " (noisy)" if one["other_cpus"] > QUIET_CPUS else ""
        if one["name"] == "schemas":
            shown = f"{one['valid']:.0f} of {one['asked']:.0f}, {one['unusable']:.0f} refused"
            is_met = one["valid"] == one["asked"]
            lines.append(_row("random schemas kept", model, shown, "100 %", is_met=is_met))
        if one["name"] == "overload":
            shown = f"P50 {_number(one['refusal_p50_ms'])} ms, P99 {_number(one['refusal_p99_ms'])}"
            title = f"refusals at 10 times the load for {one['seconds']:.0f} s"
            is_met = one["refusal_p99_ms"] <= 50
            lines.append(_row(title, model, f"{shown} ms{noisy}", "≤ 50 ms", is_met=is_met))
            shown = f"{one['served']} whole, {one['cut_answers']} cut, {one['other_status']} errors"
            is_met = not one["cut_answers"] and not one["other_status"]
            lines.append(_row("answers meanwhile", model, shown, "all whole", is_met=is_met))
            shown = f"{_number(100 * one['goodput_share'])} % of capacity, P95 gap "
            shown += f"{_number(one['p95_gap_ms'])} ms for {_number(one['usual_p95_gap_ms'])}"
            lines.append(_row("served meanwhile", model, shown + noisy))
            grown = 100 * one["grown_share"]
            is_met = grown <= 5
            lines.append(_row("memory grew", model, f"{grown:.1f} %", "≤ 5 %", is_met=is_met))
        if one["name"] == "disconnects":
            limit = one["step_ms"] + 100
            shown = f"P99 {_number(one['freed_p99_ms'])} ms, most {_number(one['freed_most_ms'])}"
            shown += f" ms; {one['kv_pages_held']:.0f} pages held{noisy}"
            title = f"slot free after {one['disconnects']} disconnects"
            is_met = one["freed_p99_ms"] <= limit and not one["kv_pages_held"]
            lines.append(_row(title, model, shown, f"≤ {limit:.0f} ms", is_met=is_met))
        if one["name"] == "sockets":
            shown = f"first token {_number(one['first_token_ms'])} ms, without "
            shown += f"{_number(one['usual_first_token_ms'])} ms{noisy}"
            title, is_met = f"beside {one['sockets']} idle sockets", one["status"] == 200
            lines.append(_row(title, model, shown, "answered", is_met=is_met))
    return lines
