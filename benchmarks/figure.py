"""A measured figure beside its target: printed, kept as JSON, and put into a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

WORDS = {True: "met", False: "**missed**", None: ""}


class Figure(NamedTuple):
    """A line of the table; `is_met` is None where there is no target."""

    name: str
    value: str
    target: str
    is_met: bool | None


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown."""
    lines = [f"| {f.name} | {f.value} | {f.target} | {WORDS[f.is_met]} |" for f in figures]
    return "\n".join(["| figure | value | target | |", "|--|--|--|--|", *lines])


def save(path: Path, conditions: dict[str, str], figures: Sequence[Figure]) -> None:
    """Write the figures and what they were measured on."""
    document = {**conditions, "figures": [figure._asdict() for figure in figures]}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[dict[str, str], list[Figure]]:
    """What `save` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    figures = [Figure(**figure) for figure in document.pop("figures")]
    return document, figures


def render(page: Path, name: str, content: str) -> None:
    """Replace what stands between the marks `name` of a page."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, _, rest = text.partition(begin)
    tail = rest.partition(end)[2]
    page.write_text(f"{head}{begin}\n{content}\n{end}{tail}", encoding="utf-8")
