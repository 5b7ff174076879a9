"""The fields of chats about tools: what may be called, what was called, and how calls are told."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from autoglm.engine.call_reader import CallPart
from autoglm.engine.grammar import check_grammar
from autoglm.errors import GrammarError
from autoglm.serve.errors import FieldError
from autoglm.serve.fields import Fields
from autoglm.serve.parse import check_forms_work
from autoglm.types import Grammar, Tool, ToolCall

MAX_TOOLS = 128
MAX_CALLS = 64
CHOICES = ("auto", "none", "required")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolWishes:
    """The tools of a request and how they may be used."""

    tools: tuple[Tool, ...]
    choice: str
    is_parallel: bool

    @property
    def may_call(self) -> bool:
        """Whether the answer may be calls."""
        return bool(self.tools) and self.choice != "none"


NO_TOOLS = ToolWishes((), "auto", True)


def read_tools(body: Fields) -> ToolWishes:
    """`tools`, `tool_choice` and `parallel_tool_calls`. Raises FieldError."""
    tools = tuple(_tool(item) for item in body.objects("tools", MAX_TOOLS))
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        body.fail("tools", "functions with different names")
    wishes = ToolWishes(
        tools, _choice(body, names), body.boolean("parallel_tool_calls", default=True)
    )
    if wishes.may_call:
        check_forms_work(body.path("tools"))
    return wishes


def _choice(body: Fields, names: list[str]) -> str:
    value = body.values.get("tool_choice")
    if not isinstance(value, dict):
        choice = body.choice("tool_choice", CHOICES, "auto")
        if choice == "required" and not names:
            body.fail("tool_choice", "tools to choose from")
        return choice
    named = Fields(value, "tool_choice").inner("function")
    name = "" if named is None else named.text("name")
    if name not in names:
        body.fail("tool_choice", "the name of one of the tools")
    return name


def _tool(item: Fields) -> Tool:
    item.choice("type", ("function",), "function")
    function = item.inner("function")
    if function is None:
        item.fail("function", "an object")
    name = function.text("name")
    if not _NAME.fullmatch(name):
        function.fail("name", "1 to 64 letters, digits, '_', '.' or '-'")
    inner = function.inner("parameters")
    schema = {"type": "object", "properties": {}} if inner is None else inner.values
    parameters = json.dumps(schema, ensure_ascii=False)
    try:
        check_grammar(Grammar("schema", parameters))
    except GrammarError as err:
        raise FieldError(str(err), field=function.path("parameters")) from err
    return Tool(name, function.text("description", ""), parameters)


def read_calls(item: Fields) -> tuple[ToolCall, ...]:
    """The `tool_calls` of an assistant's message. Raises FieldError."""
    calls = []
    for entry in item.objects("tool_calls", MAX_CALLS):
        function = entry.inner("function")
        if function is None:
            entry.fail("function", "an object")
        calls.append(ToolCall(function.text("name"), _arguments(function), entry.text("id", "")))
    return tuple(calls)


def _arguments(function: Fields) -> str:
    """OpenAI sends the text of an object, Ollama the object."""
    value = function.values.get("arguments", {})
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        function.fail("arguments", "a JSON object")
    return json.dumps(value, ensure_ascii=False)


def call_form(call: ToolCall) -> dict[str, Any]:
    """A call as OpenAI's clients read it, with a name of its own."""
    return {"id": _new_id(), "type": "function", "function": _function(call.name, call.arguments)}


def call_delta(part: CallPart) -> dict[str, Any]:
    """A part of a call as a delta of a stream: its name, or more of its arguments."""
    if not part.name:
        return {"index": part.number, "function": {"arguments": part.arguments}}
    function = _function(part.name, part.arguments)
    return {"index": part.number, "id": _new_id(), "type": "function", "function": function}


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _function(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}
