"""Reads the fields of a JSON body strictly: every value has a kind and a range, every error a name.

Unknown fields are left alone, because clients send what other services know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from autoglm._core import json_shape
from autoglm.serve.errors import FieldError

MAX_DEPTH = 100
MAX_VALUES = 2**18
MAX_CONTAINERS = 2**16
MAX_SHOWN = 60


def parse_object(content: bytes) -> Fields:
    """The JSON object in a body. Raises FieldError."""
    _check_shape(content)
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        message = "the body is not JSON in UTF-8"
        raise FieldError(message) from err
    if not isinstance(value, dict):
        message = "the body must be a JSON object"
        raise FieldError(message)
    return Fields(value)


def _refuse_constant(_name: str) -> NoReturn:
    message = "NaN and Infinity are not JSON"
    raise ValueError(message)


def _check_shape(content: bytes) -> None:
    """Before anything is built: that takes the interpreter for itself while it lasts."""
    num_values, num_containers, depth = json_shape(content)
    if depth > MAX_DEPTH:
        message = f"the body is nested deeper than {MAX_DEPTH} levels"
        raise FieldError(message)
    if num_values > MAX_VALUES:
        message = f"the body has more than {MAX_VALUES} values"
        raise FieldError(message)
    if num_containers > MAX_CONTAINERS:
        message = f"the body has more than {MAX_CONTAINERS} objects and lists"
        raise FieldError(message)


class Fields:
    """One object of a body; `null` counts as left out."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self.values = values
        self._path = path

    def path(self, name: str) -> str:
        """The full name of a field."""
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        """Whether the field is given."""
        return self.values.get(name) is not None

    def fail(self, name: str, expected: str) -> NoReturn:
        """Raise the error for a field; short values that are no text are shown."""
        value = self.values.get(name)
        shown = "missing" if value is None else f"of type {_json_type(value)}"
        if isinstance(value, bool | int | float):
            shown = json.dumps(value)[:MAX_SHOWN]
        message = f"{self.path(name)} is {shown}; expected {expected}"
        raise FieldError(message, field=self.path(name))

    def boolean(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(name, "true or false")
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number in a range, None when left out."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number in a range, None when left out."""
        value = self.values.get(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            self.fail(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A string; without a default it must be there."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            self.fail(name, "a string")
        return self._valid(name, value)

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        """One of a few words."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in options:
            self.fail(name, f"one of {', '.join(options)}")
        return value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A string or a list of up to `most` strings; empty when left out."""
        value = self.values.get(name)
        if value is None:
            return ()
        items = [value] if isinstance(value, str) else value
        is_list = isinstance(items, list) and len(items) <= most
        if not is_list or not all(isinstance(item, str) for item in items):
            self.fail(name, f"a string or a list of at most {most} strings")
        return tuple(self._valid(name, item) for item in items)

    def inner(self, name: str) -> Fields | None:
        """An object, None when left out."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(name, "an object")
        return Fields(value, self.path(name))

    def objects(self, name: str, most: int) -> Iterator[Fields]:
        """A list of up to `most` objects; empty when left out."""
        value = self.values.get(name)
        if value is None:
            return
        if not isinstance(value, list) or len(value) > most:
            self.fail(name, f"a list of at most {most} objects")
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                path = f"{self.path(name)}[{number}]"
                message = f"{path} is of type {_json_type(item)}; expected an object"
                raise FieldError(message, field=path)
            yield Fields(item, f"{self.path(name)}[{number}]")

    def _valid(self, name: str, text: str) -> str:
        """Lone surrogates are JSON, but no text."""
        try:
            text.encode()
        except UnicodeEncodeError as err:
            message = f"{self.path(name)} has characters that are not valid Unicode"
            raise FieldError(message, field=self.path(name)) from err
        return text


def _json_type(value: object) -> str:
    names = {str: "string", dict: "object", list: "array", bool: "boolean"}
    return names.get(type(value), "number")
