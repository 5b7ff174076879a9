"""Compares a JSON answer with labelled fields: values by their words, actions by task and owner.

Dates are equal whatever the order of their words ("the 4th of March" is "March 4th"). An action
is found if its sentence holds most words of the labelled task; then owner and due date count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WORD = re.compile(r"[a-z\u3400-\u9fff]+|[$£€]?\d[\d,.:]*\d|\d+|%")
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_EMPTY_WORDS = frozenset(
    ("the", "of", "in", "on", "at", "a", "an", "and", "to", "i", "you", "we", "it")
)
_MOST = 0.6


@dataclass(frozen=True, slots=True)
class Match:
    """How many values were right, found and wanted; `is_valid` says it was a JSON object."""

    is_valid: bool
    right: int
    found: int
    wanted: int


def match(wanted: Mapping[str, Any], answer: str) -> Match:
    """Compare an answer with labels."""
    num_wanted = sum(_size(entry) for values in wanted.values() for entry in values)
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return Match(is_valid=False, right=0, found=0, wanted=num_wanted)
    right = num_found = 0
    for name, values in found.items():
        entries = values if isinstance(values, list) else [values]
        num_found += sum(_size(entry) for entry in entries)
        labels = list(wanted.get(name, ()))
        if labels and isinstance(labels[0], Mapping):
            right += sum(_best_action(entries, label) for label in labels)
        else:
            right += len({_words(str(e)) for e in entries} & {_words(str(e)) for e in labels})
    return Match(is_valid=True, right=right, found=num_found, wanted=num_wanted)


def _size(entry: object) -> int:
    """A value counts once, an action once for every part that is not empty."""
    return sum(bool(part) for part in entry.values()) if isinstance(entry, Mapping) else 1


def _words(text: str) -> frozenset[str]:
    plain = _ORDINAL.sub("", text.lower().replace("o'clock", "").replace(".m", "m"))
    return frozenset(_WORD.findall(plain)) - _EMPTY_WORDS


def _best_action(entries: list[Any], label: Mapping[str, str]) -> int:
    task = _words(label["task"])
    scores = [0]
    for entry in entries:
        if not isinstance(entry, Mapping):
            continue
        said = _words(str(entry.get("task", "")))
        if len(task & said) >= _MOST * len(task):
            parts = (
                bool(label[part]) and _words(str(entry.get(part, ""))) == _words(label[part])
                for part in ("owner", "due")
            )
            scores.append(1 + sum(parts))
    return max(scores)
