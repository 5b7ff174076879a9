"""Fields as JSON: which ones an instruction or a schema names, and their values in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoglm.lite.reader import typed
from autoglm.lite.reader.actions import actions

if TYPE_CHECKING:
    from autoglm.lite.reader.text import Document

Value = list[str] | list[dict[str, str]]

_FIELDS: tuple[tuple[str, str], ...] = (
    ("actions", r"action[ _]?items?|actions|to-?dos?|tasks|待办事项|待办|行动项|任务"),
    ("owners", r"owners?|assignees?|responsible|负责人"),
    ("deadlines", r"deadlines?|due(?:[ _]dates?)?|期限|截止日期|截止时间"),
    ("dates", r"dates?|days?|日期"),
    ("times", r"times?|时间"),
    ("amounts", r"amounts?|prices?|costs?|money|percentages?|金额|价格|费用|数额"),
    (
        "people",
        r"people|persons?|names?|speakers?|participants?|attendees?|人名|人员|姓名|参会人|发言人",
    ),
    ("emails", r"e-?mails?(?: addresses)?|邮箱"),
    ("phones", r"phones?(?: numbers?)?|telephones?|电话"),
)
_NAMES = re.compile("|".join(f"(?P<{kind}>{names})" for kind, names in _FIELDS), re.IGNORECASE)
_LATIN_EDGE = re.compile(r"[A-Za-z_]")
_PARTS = ("task", "owner", "due")


def asked_fields(instruction: str) -> dict[str, str]:
    """Names of fields, as JSON would spell them, with what they mean; in order."""
    names: dict[str, str] = {}  # by meaning; of two names the later, as in "日期，字段为dates"
    for match in _NAMES.finditer(instruction):
        around = instruction[match.start() - 1 : match.start()] + instruction[match.end() :][:1]
        is_part = match[0].isascii() and _LATIN_EDGE.search(around)
        if match.lastgroup and not is_part:
            names[match.lastgroup] = re.sub(r"[ -]", "_", match[0].lower())
    if "actions" in names:  # owner and due date are parts of an action item
        names.pop("owners", None)
        names.pop("deadlines", None)
    return {name: kind for kind, name in names.items()}


def schema_fields(schema: Mapping[str, Any]) -> dict[str, str] | None:
    """The fields of a JSON schema that are all known lists of texts or of actions; else None."""
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, Mapping) or not properties:
        return None
    found: dict[str, str] = {}
    for name, wanted in properties.items():
        match = _NAMES.fullmatch(str(name).replace("_", " ")) or _NAMES.fullmatch(str(name))
        if match is None or match.lastgroup is None or not _fits(wanted, match.lastgroup):
            return None
        found[str(name)] = match.lastgroup
    return found


def _fits(wanted: object, kind: str) -> bool:
    """Whether a property has the form that the reader gives its kind, and nothing narrower."""
    if not isinstance(wanted, Mapping) or set(wanted) - {"type", "items", "description", "title"}:
        return False
    items = wanted.get("items", {})
    if wanted.get("type") != "array" or not isinstance(items, Mapping):
        return False
    if kind != "actions":
        return items.get("type", "string") == "string" and not set(items) - {"type", "description"}
    parts = items.get("properties", {})
    is_known = isinstance(parts, Mapping) and not set(parts) - set(_PARTS)
    return (
        is_known
        and items.get("type", "object") == "object"
        and not (set(items.get("required", ())) - set(_PARTS))
    )


def facts(document: Document, text: str, fields: Mapping[str, str]) -> str:
    """A JSON object with a list for every field."""
    found = {name: _values(document, text, kind) for name, kind in fields.items()}
    return json.dumps(found, ensure_ascii=False)


def _values(document: Document, text: str, kind: str) -> Value:
    if kind == "actions":
        return [
            {"task": action.task, "owner": action.owner, "due": action.due}
            for action in actions(document)
        ]
    if kind in ("owners", "deadlines"):
        part = [a.owner if kind == "owners" else a.due for a in actions(document)]
        return [value for value in dict.fromkeys(part) if value]
    if kind == "people":
        return [name for name in dict.fromkeys(s.speaker for s in document.sentences) if name]
    finders = {
        "dates": typed.dates,
        "times": typed.times,
        "amounts": typed.amounts,
        "emails": typed.emails,
        "phones": typed.phones,
    }
    return finders[kind](text, document.lang)
