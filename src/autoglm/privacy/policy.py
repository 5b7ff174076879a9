"""The privacy policy: which data there is, what for, where it may be processed, how it leaves.

A policy is TOML. What it does not name does not leave: an unknown message, field, class or key is
refused or dropped, never passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from autoglm.errors import PrivacyError
from autoglm.privacy.pii.kinds import Kind

MAX_BYTES = 2**20


class Where(StrEnum):
    """The farthest place at which a class of data may be processed."""

    NEVER = "never"
    DEVICE = "device"
    CLOUD = "cloud"


class Form(StrEnum):
    """How data of a class leaves.

    PLAIN as it is, SCREENED with what was found in it replaced, PLACEHOLDER as a name whose meaning
    stays here, HASH as a keyed hash, COARSE as a blurred place.
    """

    PLAIN = "plain"
    SCREENED = "screened"
    PLACEHOLDER = "placeholder"
    HASH = "hash"
    COARSE = "coarse"


class DataClass(NamedTuple):
    """One class of data."""

    name: str
    what: str
    purpose: str
    where: Where
    form: Form
    retention_days: int


class Policy(NamedTuple):
    """Classes by name, and for each message the class of every field it may carry."""

    classes: Mapping[str, DataClass]
    messages: Mapping[str, Mapping[str, str]]
    geohash_characters: int
    noise_metres: float
    places_per_day: int

    def field_class(self, message: str, field: str) -> DataClass | None:
        """The class of a field; None when the message may not carry it. Raises PrivacyError."""
        fields = self.messages.get(message)
        if fields is None:
            text = f"the privacy policy knows no message {message!r}; nothing was sent"
            raise PrivacyError(text)
        name = fields.get(field)
        return None if name is None else self.classes[name]


_TEXTUAL = frozenset({Form.PLAIN, Form.PLACEHOLDER, Form.HASH})
_CLASS_KEYS = frozenset(DataClass._fields) - {"name"}


def load_policy(path: Path | None = None) -> Policy:
    """The policy in a file, or the one that comes with the package. Raises PrivacyError."""
    import tomllib

    source = path or files("autoglm.privacy").joinpath("policy.toml")
    try:
        with source.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as err:
        message = f"privacy policy {source}: {err.strerror or err}"
        raise PrivacyError(message) from err
    if len(content) > MAX_BYTES:
        message = f"privacy policy {source}: larger than {MAX_BYTES} bytes"
        raise PrivacyError(message)
    try:
        return _parse(tomllib.loads(content.decode()))
    except ValueError as err:
        message = f"privacy policy {source}: {err}"
        raise PrivacyError(message) from err


def _parse(document: Mapping[str, object]) -> Policy:
    _check_keys("the policy", document, {"version", "classes", "messages", "location"})
    if document["version"] != 1:
        message = f"version is {document['version']!r}; this program reads version 1"
        raise ValueError(message)
    classes = {
        name: _parse_class(name, _table(f"classes.{name}", fields))
        for name, fields in _table("classes", document["classes"]).items()
    }
    missing = sorted(set(Kind) - set(classes))
    if missing:
        message = f"classes without a rule: {', '.join(missing)}"
        raise ValueError(message)
    messages: dict[str, dict[str, str]] = {}
    for name, fields in _table("messages", document["messages"]).items():
        messages[name] = {}
        for field, class_name in _table(f"messages.{name}", fields).items():
            if not isinstance(class_name, str) or class_name not in classes:
                message = f"messages.{name}.{field} is {class_name!r}; expected a class"
                raise ValueError(message)
            messages[name][field] = class_name
    location = _table("location", document["location"])
    _check_keys("location", location, {"geohash_characters", "noise_metres", "places_per_day"})
    return Policy(
        classes,
        messages,
        _whole("location.geohash_characters", location["geohash_characters"], 1, 12),
        _whole("location.noise_metres", location["noise_metres"], 10, 100_000),
        _whole("location.places_per_day", location["places_per_day"], 1, 10_000),
    )


def _parse_class(name: str, fields: Mapping[str, object]) -> DataClass:
    _check_keys(f"classes.{name}", fields, _CLASS_KEYS)
    try:
        where, form = Where(str(fields["where"])), Form(str(fields["form"]))
    except ValueError as err:
        message = (
            f"classes.{name}: where is {fields['where']!r} and form {fields['form']!r}; expected "
            f"one of {', '.join(Where)} and one of {', '.join(Form)}"
        )
        raise ValueError(message) from err
    if name in list(Kind) and form not in _TEXTUAL:
        message = (
            f"classes.{name}: form is {form!r}; data in texts is {', '.join(sorted(_TEXTUAL))}"
        )
        raise ValueError(message)
    if where != Where.CLOUD and form == Form.PLAIN:
        message = f"classes.{name}: it may not leave plain, because where is {where!r}"
        raise ValueError(message)
    return DataClass(
        name,
        _text(f"classes.{name}.what", fields["what"]),
        _text(f"classes.{name}.purpose", fields["purpose"]),
        where,
        form,
        _whole(f"classes.{name}.retention_days", fields["retention_days"], 0, 36_500),
    )


def _check_keys(
    place: str, table: Mapping[str, object], expected: frozenset[str] | set[str]
) -> None:
    if set(table) != set(expected):
        found, wanted = ", ".join(sorted(table)), ", ".join(sorted(expected))
        message = f"{place} has {found or 'nothing'}; expected {wanted}"
        raise ValueError(message)


def _table(place: str, value: object) -> Mapping[str, object]:
    match value:
        case dict():
            return value
        case _:
            message = f"{place} is {value!r}; expected a table"
            raise ValueError(message)


def _text(place: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        message = f"{place} is {value!r}; expected a text"
        raise ValueError(message)
    return value


def _whole(place: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        message = f"{place} is {value!r}; expected a whole number from {low} to {high}"
        raise ValueError(message)
    return value


def table(policy: Policy) -> str:
    """What is processed here and what there, as a Markdown table."""
    there = {
        Form.PLAIN: "as it is",
        Form.SCREENED: "without the personal data found in it",
        Form.PLACEHOLDER: "a placeholder",
        Form.HASH: "a keyed hash",
        Form.COARSE: "a coarse, blurred place",
    }
    lines = [
        "| data | for | processed here | processed there | kept |",
        "|--|--|--|--|--|",
    ]
    for each in policy.classes.values():
        here = "no" if each.where is Where.NEVER else "yes"
        away = "no: what holds it does not leave" if each.where is Where.NEVER else there[each.form]
        if each.where is Where.DEVICE:
            away = f"no, {away} instead"
        days = each.retention_days
        kept = f"{days} day{'s' * (days > 1)}" if days else "not kept"
        lines.append(f"| {each.what} | {each.purpose} | {here} | {away} | {kept} |")
    return "\n".join(lines) + "\n"
