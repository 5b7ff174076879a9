"""Bars of what `autoglm eval --json` printed: each task's scores beside those of the baselines.

Run as `python -m autoglm.lite.evaluation.plot REPORT.json ... --out scores.svg`; of a task that
several reports hold, the last counts.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoglm.errors import InputError

_SYSTEMS = {"model": "LITE", "lead3": "LEAD-3", "textrank": "TextRank", "oracle": "oracle"}
_COLOURS = {"model": "#1f5fa8", "lead3": "#c9c9c9", "textrank": "#9a9a9a", "oracle": "#e3c878"}
_METRICS = ("rouge1", "f1", "field_f1", "accuracy")
_NAMES = {"rouge1": "ROUGE-1", "f1": "F1", "field_f1": "field F1", "accuracy": "accuracy"}
_LEFT, _RIGHT, _TOP, _BAR, _GAP = 236, 626, 34, 12, 10


@dataclass(frozen=True, slots=True)
class Row:
    """One task: what is shown of it, and every system's score."""

    label: str
    scores: Mapping[str, float]


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """The tasks of the reports that have a score between 0 and 100. Raises InputError."""
    tasks: dict[str, Any] = {}
    for path in paths:
        try:
            tasks |= json.loads(path.read_text(encoding="utf-8"))["tasks"]
        except (OSError, ValueError, KeyError, TypeError) as err:
            message = f"{path}: not a report of `autoglm eval --json` ({type(err).__name__})"
            raise InputError(message) from err
    rows: list[Row] = []
    for name, task in tasks.items():
        metric = next((each for each in _METRICS if each in task["model"]), None)
        if metric:
            found = {system: task[system][metric] for system in _SYSTEMS if system in task}
            rows.append(Row(f"{name} ({task['num']}), {_NAMES[metric]}", found))
    return rows


def draw(rows: Sequence[Row]) -> str:
    """The SVG text: a group of bars for every task, from 0 to 100."""
    height = _TOP + sum(_BAR * len(row.scores) + _GAP for row in rows) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_RIGHT + 60} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_RIGHT + 60}" height="{height}" fill="white"/>',
    ]
    for index, (system, name) in enumerate(_SYSTEMS.items()):
        left = _LEFT + 90 * index
        parts.append(f'<rect x="{left}" y="10" width="10" height="10" fill="{_COLOURS[system]}"/>')
        parts.append(f'<text x="{left + 14}" y="19">{name}</text>')
    for mark in range(0, 101, 20):
        x = _place(mark)
        parts.append(f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{height - 20}" stroke="#eee"/>')
        parts.append(f'<text x="{x}" y="{height - 6}" text-anchor="middle">{mark}</text>')
    top = _TOP
    for row in rows:
        middle = top + _BAR * len(row.scores) / 2 + 4
        parts.append(f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{row.label}</text>')
        for system, score in row.scores.items():
            width = _place(score) - _LEFT
            parts.append(
                f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR - 2}" '
                f'fill="{_COLOURS[system]}"/>'
            )
            parts.append(f'<text x="{_LEFT + width + 4:.1f}" y="{top + 9}">{score:.1f}</text>')
            top += _BAR
        top += _GAP
    return "\n".join([*parts, "</svg>", ""])


def _place(score: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * score / 100


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(draw(read_rows(args.reports)), encoding="utf-8")


if __name__ == "__main__":
    main()
