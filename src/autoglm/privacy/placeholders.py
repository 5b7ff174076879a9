"""Placeholders such as [PERSON_1]: what they stand for stays here and is put back in the answer."""

from __future__ import annotations

import re

from autoglm.privacy.pii.fold import fold
from autoglm.privacy.pii.kinds import Kind

# Models change brackets, case and spaces of what they copy.
_OPEN, _CLOSE = r"[\[\uff3b【(（]", r"[\]\uff3d】)）]"
_WRITTEN = re.compile(rf"{_OPEN} ?([A-Za-z][A-Za-z_]{{1,20}})[_ ](\d{{1,5}}) ?{_CLOSE}")
_MOST_WRITTEN = 32
_OPENING = re.compile(rf"{_OPEN}[^\]\uff3d】)）]{{0,31}}$")


class Placeholders:
    """The placeholders of one conversation; equal values share one."""

    def __init__(self) -> None:
        self._by_value: dict[tuple[Kind, str], str] = {}
        self._values: dict[tuple[str, int], str] = {}
        self._counts: dict[Kind, int] = {}

    def name(self, kind: Kind, value: str, taken: frozenset[tuple[str, int]]) -> str:
        """The placeholder of a value; a new one is none of those that the text has `taken`."""
        key = kind, "".join(fold(value).text.split()).lower()
        found = self._by_value.get(key)
        if found is None:
            name, number = kind.name, self._counts.get(kind, 0) + 1
            while (name, number) in taken:
                number += 1
            self._counts[kind] = number
            found = self._by_value[key] = f"[{name}_{number}]"
            self._values[name, number] = value
        return found

    def restore(self, text: str) -> str:
        """`text` with the values that its placeholders stand for."""
        return _WRITTEN.sub(self._value, text)

    def _value(self, match: re.Match[str]) -> str:
        return self._values.get((match[1].upper(), int(match[2])), match[0])


def taken_names(text: str) -> frozenset[tuple[str, int]]:
    """What the text itself writes like a placeholder and must not be mistaken for one."""
    return frozenset((name.upper(), int(number)) for name, number in _WRITTEN.findall(text))


class Restorer:
    """Puts values back in an answer that comes in pieces, which may cut a placeholder."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be shown after another piece."""
        text = self._held + piece
        opening = _OPENING.search(text, max(0, len(text) - _MOST_WRITTEN))
        cut = opening.start() if opening else len(text)
        self._held = text[cut:]
        return self._placeholders.restore(text[:cut])

    def finish(self) -> str:
        """What was held back."""
        text, self._held = self._held, ""
        return self._placeholders.restore(text)
