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
    return "|".join(re.escape(word) for word in sorted(words(name), key=len, reverse=True))


def _text(name: str) -> str:
    return files("autoglm.privacy.pii").joinpath(f"data/{name}.txt").read_text("utf-8")
