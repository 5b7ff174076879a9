"""The rows of a run with memory and quality beside each speed: as documents, and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality import Score

from peers.engines import PRODUCT, Form
from peers.rows import Median, Row, Target, median_of
from peers.targets import LITE, Scale, quality_rows, rows_of
from peers.workload import MEMORY_FIRST, MEMORY_PEAK, Sample


@dataclass(frozen=True, slots=True)
class Cost:
    """What an engine pays: peak memory on the row's model, and the rise of perplexity on LITE."""

    peak_mib: float | None
    rises: tuple[float, ...]

    @property
    def rise_text(self) -> str:
        """The range over the texts."""
        if not self.rises:
            return ""
        low, high = min(self.rises), max(self.rises)
        return f"{low:+.1f} %" if low == high else f"{low:+.1f} to {high:+.1f} %"


@dataclass(frozen=True, slots=True)
class Results:
    """A finished run, and what its roundings cost."""

    samples: Sequence[Sample]
    scale: Scale
    forms: Mapping[str, Form]
    scores: Sequence[Score]

    @property
    def rows(self) -> list[Row]:
        """Every row of the table."""
        return [*rows_of(self.samples, self.scale), *quality_rows(self.scores)]

    def cost(self, engine: str, model: str) -> Cost:
        """Of one engine; the product's is that of its own model where it runs it."""
        found = [
            s
            for s in self.samples
            if (s.engine, s.model) == (engine, model) and s.row in (MEMORY_PEAK, MEMORY_FIRST)
        ]
        peaks = [s for s in found if s.row == MEMORY_PEAK] or found
        is_lite = engine == PRODUCT and model == LITE
        form = self.forms.get(LITE if is_lite else engine)
        rises = rises_of(form, self.scores) if form is not None else ()
        return Cost(median_of(peaks).value if peaks else None, rises)


def rises_of(form: Form, scores: Sequence[Score]) -> tuple[float, ...]:
    """The rise of perplexity of every text, in percent."""
    return tuple(score.rise_percent for score in scores if score.form == form.key)


def latest(directory: Path, pattern: str) -> Path | None:
    """The newest result file of a kind; the names hold the time."""
    return max(directory.glob(pattern), default=None)


def read_results(saved: Mapping[str, Any]) -> Results:
    """Those of a result file; JSON keeps keys as text."""
    scale = saved["scale"]
    operations = {int(length): value for length, value in scale["token_operations"].items()}
    quality = saved.get("quality") or {"scores": []}
    return Results(
        samples=[Sample(**sample) for sample in saved["samples"]],
        scale=Scale(**{**scale, "token_operations": operations}),
        forms={name: Form(**form) for name, form in saved["forms"].items()},
        scores=[Score(**score) for score in quality["scores"]],
    )


def complete(saved: Mapping[str, Any], quality: Path | None) -> dict[str, Any]:
    """A result file's document with the quality of a file, and with its rows."""
    document = {key: value for key, value in saved.items() if key != "samples"}
    if quality is not None:
        document["quality"] = json.loads(quality.read_text(encoding="utf-8"))
    results = read_results({**document, "samples": saved["samples"]})
    return {**document, "rows": documents(results), "samples": saved["samples"]}


def documents(results: Results) -> list[dict[str, Any]]:
    """The rows for a result file."""
    return [_document(row, results) for row in results.rows]


def _document(row: Row, results: Results) -> dict[str, Any]:
    best = row.best_peer
    return {
        "model": row.model,
        "row": row.name,
        "unit": row.unit,
        "autoglm": _engine(row.engine, row.ours, row.model, results),
        "best_peer": _engine(best, row.peers[best], row.model, results) if best else None,
        "ratio": row.ratio,
        "must": _judged(row, row.must),
        "aim": _judged(row, row.aim),
    }


def _engine(name: str, middle: Median, model: str, results: Results) -> dict[str, Any]:
    cost = results.cost(name, model)
    return {
        "engine": name,
        "median": middle.value,
        "min": middle.low,
        "max": middle.high,
        "samples": middle.count,
        "is_noisy": middle.is_noisy,
        "peak_rss_mib": cost.peak_mib,
        "perplexity_rise_percent": [min(cost.rises), max(cost.rises)] if cost.rises else None,
    }


def _judged(row: Row, target: Target | None) -> dict[str, Any] | None:
    return None if target is None else {"target": target.text, "is_met": target.is_met(row)}


def verdict(row: Row, target: Target | None) -> str:
    """The target and whether it is met."""
    if target is None:
        return ""
    return f"{target.text} {'met' if target.is_met(row) else '**missed**'}"


def number(value: float) -> str:
    """Three significant digits, whole numbers from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Results) -> str:
    """The rows as Markdown; pairs of cells are ours and the best peer's."""
    speeds = ("model", "row", "autoglm (min, max)", "best peer", "ratio", "must", "aim")
    head = (*speeds, "peak RSS, MiB", "perplexity")
    lines = ["| " + " | ".join(head) + " |", "|--" * len(head) + "|"]
    lines += ["| " + " | ".join(_cells(row, results)) + " |" for row in results.rows]
    return "\n".join(lines)


def short_table(results: Results) -> str:
    """The rows in which a ratio to the best peer is demanded, without their targets."""
    lines = ["| model | row | autoglm | best peer | ratio |", "|--|--|--|--|--|"]
    for row in results.rows:
        if row.must is None or row.must.ratio is None or row.best_peer is None:
            continue
        peer = f"{number(row.peers[row.best_peer].value)} ({row.best_peer})"
        cells = (row.model, row.name, f"{number(row.ours.value)} {row.unit}", peer)
        lines.append("| " + " | ".join((*cells, f"{row.ratio:.2f}x")) + " |")
    return "\n".join(lines)


def _cells(row: Row, results: Results) -> Sequence[str]:
    own = f"{number(row.ours.value)} {row.unit}"
    if row.ours.count > 1:
        own += f" ({number(row.ours.low)}, {number(row.ours.high)})"
    peer = ratio = ""
    is_noisy = row.ours.is_noisy
    costs = [results.cost(row.engine, row.model)]
    if row.best_peer is not None and row.ratio is not None:
        best = row.peers[row.best_peer]
        peer, ratio = f"{number(best.value)} {row.best_peer}", f"{row.ratio:.2f}x"
        is_noisy = is_noisy or best.is_noisy
        costs.append(results.cost(row.best_peer, row.model))
    own += " (noisy)" if is_noisy else ""
    memory = " / ".join(number(cost.peak_mib) for cost in costs if cost.peak_mib is not None)
    rise = " / ".join(cost.rise_text for cost in costs if cost.rises)
    judged = (verdict(row, row.must), verdict(row, row.aim))
    return (row.model, row.name, own, peer, ratio, *judged, memory, rise)
