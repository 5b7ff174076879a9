"""Typed, bounded access to the keys of a configuration from an untrusted file."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import NoReturn

from autoglm.errors import ModelConfigError


class Fields:
    """A JSON object whose values are checked as they are taken; null counts as absent."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = values
        self.where = where

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(key) is not None

    def names(self) -> tuple[str, ...]:
        """All keys."""
        return tuple(self._values)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """An integer within [low, high]; required when there is no default."""
        value = self._take(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.refuse(key, f"an integer from {low} to {high}")

    def real(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number within [low, high]; required when there is no default."""
        value = self._take(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        self.refuse(key, f"a number from {low:g} to {high:g}")

    def boolean(self, key: str, *, default: bool) -> bool:
        """true or false."""
        value = self._take(key, default)
        if isinstance(value, bool):
            return value
        self.refuse(key, "true or false")

    def text(self, key: str, default: str | None = None) -> str:
        """A string; required when there is no default."""
        value = self._take(key, default)
        if isinstance(value, str):
            return value
        self.refuse(key, "a string")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; absent is empty."""
        value = self._take(key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self.refuse(key, "a list of strings")

    def nested(self, key: str) -> Fields:
        """An object; absent is empty."""
        value = self._take(key, {})
        if isinstance(value, dict):
            return Fields(value, f"{self.where}: '{key}'")
        self.refuse(key, "an object")

    def is_object(self, key: str) -> bool:
        """Whether the value is an object."""
        return isinstance(self._values.get(key), dict)

    def objects(self, key: str) -> list[Fields] | None:
        """A list of objects, or None when the value is not a list at all."""
        value = self._values.get(key)
        if not isinstance(value, list):
            return None
        if all(isinstance(item, dict) for item in value):
            return [Fields(item, f"{self.where}: '{key}'") for item in value]
        self.refuse(key, "a list of objects")

    def integers(self, key: str) -> tuple[int, ...]:
        """A whole number of at least 0 or a list of them; absent is empty."""
        value = self._take(key, [])
        items = value if isinstance(value, list) else [value]
        if all(type(item) is int and item >= 0 for item in items):
            return tuple(items)
        self.refuse(key, "a token id or a list of token ids")

    def reals(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; absent is empty."""
        value = self._take(key, [])
        if isinstance(value, list):
            numbers = [item for item in value if type(item) in (int, float)]
            if len(numbers) == len(value) and all(map(math.isfinite, numbers)):
                return tuple(map(float, numbers))
        self.refuse(key, "a list of numbers")

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise ModelConfigError for a key whose value is not what was expected."""
        seen = reprlib.repr(self._values[key]) if self.has(key) else "missing"
        message = f"{self.where}: '{key}' is {seen}, expected {expected}"
        raise ModelConfigError(message)

    def _take(self, key: str, default: object) -> object:
        value = self._values.get(key)
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse(key, "a finite number")
        return default if value is None else value
