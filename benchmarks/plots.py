"""The plots of BENCHMARKS.md, as small SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers import workload
from peers.engines import OURS, OURS_EXACT, OURS_RECIPE, OWN_NAMES
from peers.rows import Row, median_of
from peers.workload import Sample

from autoglm.telemetry.plot import COLORS, OTHER_COLOR

OWN_COLOR, ROOF_COLOR, MUST_COLOR = "#1f6feb", "#444c56", "#d29922"
VARIANT_LINES = {OURS_EXACT: "^--", OURS_RECIPE: "s:"}
PEER_COLORS = ("#d1742f", "#8957e5", "#2f8f46", "#b3446c", "#6e7781", "#9a6700")
MARKERS = {"prompt": "o", "generation": "s"}
# Below this share of a phase's time a step says nothing about the engine.
MIN_SHARE = 0.005
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "autoglm",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DEPTHS = {workload.decode_at(depth): depth for depth in workload.DECODE_DEPTHS}


def save(figure: Figure, path: Path) -> None:
    """Without a date, so that the same results give the same file."""
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def ratios(rows: Sequence[Row], path: Path) -> None:
    """One bar a row: how many times better than the best peer."""
    shown = [row for row in rows if row.ratio is not None and row.name != workload.ROWS][::-1]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 0.32 * len(shown) + 0.9))
        values = [row.ratio or 0.0 for row in shown]
        axes.barh(range(len(shown)), values, color=OWN_COLOR, height=0.62)
        axes.axvline(1.0, color=ROOF_COLOR, linewidth=1)
        for place, (row, value) in enumerate(zip(shown, values, strict=True)):
            end = value
            if row.must is not None and row.must.ratio is not None:
                end = max(value, row.must.ratio)
                ends = (place - 0.4, place + 0.4)
                axes.plot([row.must.ratio] * 2, ends, color=MUST_COLOR, linewidth=2)
            axes.annotate(
                f" {value:.2f}x  ({row.best_peer})",
                (end, place),
                va="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(shown)), [f"{row.model}: {row.name}" for row in shown])
        axes.set_xlim(0, 1.45 * max([1.0, *values]))
        axes.set_xlabel("times better than the best peer; the mark is the target")
        save(figure, path)


def depth(samples: Sequence[Sample], model: str, path: Path) -> None:
    """Decode speed of every engine against the tokens before."""
    of_model = [sample for sample in samples if sample.model == model and sample.row in DEPTHS]
    engines = dict.fromkeys(sample.engine for sample in of_model)
    peer_colors = dict(zip((e for e in engines if e not in OWN_NAMES), cycle(PEER_COLORS)))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.5, 3.6))
        for engine in engines:
            points = []
            for row, tokens in DEPTHS.items():
                found = [s for s in of_model if (s.engine, s.row) == (engine, row)]
                if found:
                    points.append((tokens, median_of(found).value))
            axes.plot(
                *zip(*points, strict=True),
                VARIANT_LINES.get(engine, "o-"),
                color=peer_colors.get(engine, OWN_COLOR),
                lw=2.5 if engine == OURS else 1.2,
                ms=4,
                label=engine,
            )
        axes.set_ylim(bottom=0)
        axes.set_xticks(list(DEPTHS.values()))
        axes.set_xlabel("tokens in the cache")
        axes.set_ylabel("decode, tokens/s")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        save(figure, path)


def roofline(profiles: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each step of a pass against what bandwidth and arithmetic allow, one panel a depth."""
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(profiles), figsize=(5.2 * len(profiles), 4.2), sharey=True, squeeze=False
        )
        for axes, profile in zip(panels[0], profiles, strict=True):
            _roofs(axes, profile["limits"])
            for phase in profile["phases"]:
                _steps(axes, phase)
            axes.set_title(f"{profile['depth']} tokens before the prompt", fontsize=9)
            axes.set_xlabel("operations a byte")
        panels[0][0].set_ylabel("TOPS")
        _key(panels[0][-1], profiles)
        save(figure, path)


def _roofs(axes: Axes, limits: Mapping[str, float]) -> None:
    bandwidth, peak = limits["read_bytes_per_s"] / 1e12, limits["operations_per_s"] / 1e12
    knee = peak / bandwidth
    ends = (0.1, 1e4)
    axes.loglog([ends[0], knee, ends[1]], [ends[0] * bandwidth, peak, peak], color=ROOF_COLOR)
    title = f"{peak:.1f} TOPS int8 peak, {1e3 * bandwidth:.1f} GB/s read"
    axes.annotate(title, (ends[1], 1.15 * peak), ha="right", fontsize=8)
    axes.set_xlim(*ends)
    axes.set_ylim(1e-3, 3 * peak)


def _steps(axes: Axes, phase: Mapping[str, Any]) -> None:
    for name, step in phase["steps"].items():
        if step["seconds"] < MIN_SHARE * phase["seconds"] or not step["operations"]:
            continue
        axes.scatter(
            step["operations"] / step["bytes"],
            step["operations"] / step["seconds"] / 1e12,
            s=25 + 300 * step["seconds"] / phase["seconds"],
            marker=MARKERS[phase["name"]],
            color=COLORS.get(name, OTHER_COLOR),
            alpha=0.8,
            lw=0,
        )


def _key(axes: Axes, profiles: Sequence[Mapping[str, Any]]) -> None:
    """Colours are steps, shapes are phases."""
    phases = [phase for profile in profiles for phase in profile["phases"]]
    steps = dict.fromkeys(
        name
        for phase in phases
        for name, step in phase["steps"].items()
        if step["seconds"] >= MIN_SHARE * phase["seconds"] and step["operations"]
    )
    shown = {name: (COLORS.get(name, OTHER_COLOR), "o") for name in steps}
    shown |= {name: (ROOF_COLOR, marker) for name, marker in MARKERS.items()}
    for name, (color, marker) in shown.items():
        axes.plot([], [], marker, color=color, label=name)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
