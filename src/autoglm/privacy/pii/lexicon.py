"""The word lists of the detectors, files of words in the folder data."""

from __future__ import annotations

import re
from importlib.resources import files


def words(name: str) -> tuple[str, ...]:
    """The words of a list, in its order."""
    return tuple(_text(name).split())


def characters(name: str) -> str:
    """The characters of a list, in its order."""
    return "".join(_text(name).split())


def any_of(name: str) -> str:
    """A regular expression for the words of a list, the longest first."""
    return _alternatives(sorted(set(words(name)), key=len, reverse=True))


def _alternatives(choices: list[str]) -> str:
    """Words that begin alike share their beginning, so that few are tried at a place."""
    by_first: dict[str, list[str]] = {}
    for word in choices:
        by_first.setdefault(word[:1], []).append(word[1:])
    parts = []
    for first, rests in by_first.items():
        if len(rests) == 1:
            parts.append(re.escape(first + rests[0]))
        else:
            parts.append(f"{re.escape(first)}(?:{_alternatives(rests)})")
    return "|".join(parts)


def _text(name: str) -> str:
    return files("autoglm.privacy.pii").joinpath(f"data/{name}.txt").read_text("utf-8")
