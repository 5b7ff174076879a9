"""Tool calls in the form a model was trained on: how they are shown, bound and read.

Three forms cover the families: Hermes (Qwen, and models without one of their own), GLM-4.5 and
Llama 3. The form is recognised by the chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from autoglm.types import Grammar, Message, Request, Tool, ToolCall

ToolForm = Literal["hermes", "glm", "llama"]
OPEN, CLOSE = "<tool_call>", "</tool_call>"
KEY_OPEN, KEY_CLOSE = "<arg_key>", "</arg_key>"
VALUE_OPEN, VALUE_CLOSE = "<arg_value>", "</arg_value>"
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def form_of(template: str | None) -> ToolForm:
    """The form that a chat template writes."""
    source = template or ""
    if KEY_OPEN in source:
        return "glm"
    if OPEN not in source and '"parameters"' in source and shows_tools(source):
        return "llama"
    return "hermes"


def shows_tools(template: str | None) -> bool:
    """Whether a chat template shows tools to the model itself."""
    return re.search(r"\btools\b", template or "") is not None


def may_call(request: Request) -> bool:
    """Whether the answer may be calls."""
    return bool(request.tools) and request.tool_choice != "none"


def tool_value(tool: Tool) -> dict[str, Any]:
    """A tool as templates expect it."""
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": json.loads(tool.parameters),
    }
    return {"type": "function", "function": function}


def call_value(call: ToolCall) -> dict[str, Any]:
    """A call of an earlier turn as templates expect it."""
    function = {"name": call.name, "arguments": json.loads(call.arguments)}
    return {"type": "function", "id": call.id, "function": function}


def plain_messages(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Messages for a template that knows neither tools nor calls nor their results."""
    plain: list[Message] = []
    if tools:
        plain.append(Message("system", _introduction(tools)))
    for message in messages:
        if message.role == "system" and plain and plain[0].role == "system":
            plain[0] = Message("system", f"{message.content}\n\n{plain[0].content}")
        elif message.role == "tool":
            content = f"<tool_response>\n{message.content}\n</tool_response>"
            if plain and plain[-1].role == "user":
                content = f"{plain.pop().content}\n{content}"
            plain.append(Message("user", content))
        elif message.tool_calls:
            calls = "\n".join(map(_written, message.tool_calls))
            plain.append(Message(message.role, f"{message.content}\n{calls}".strip()))
        else:
            plain.append(message)
    return plain


def _introduction(tools: Sequence[Tool]) -> str:
    lines = "\n".join(json.dumps(tool_value(tool), ensure_ascii=False) for tool in tools)
    return (
        f"You may call these functions:\n{lines}\n"
        f'To call one, write {OPEN}\n{{"name": NAME, "arguments": ARGUMENTS}}\n{CLOSE}'
    )


def _written(call: ToolCall) -> str:
    return f'{OPEN}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n{CLOSE}'


def tool_grammar(
    form: ToolForm,
    tools: Sequence[Tool],
    *,
    must_call: bool,
    is_parallel: bool,
    is_control: Callable[[str], bool],
) -> Grammar:
    """What binds an answer: calls that cannot be malformed, or text when none must come.

    `is_control` says whether a word of the form is a token of its own.
    """
    writer = _Writer(is_control)
    bodies = [writer.body(form, number, tool) for number, tool in enumerate(tools)]
    choice = "any: " + " | ".join(f"body_{number}" for number in range(len(tools)))
    if form == "llama":
        start = "start: any" if must_call else "start: any | PLAIN\nPLAIN: /([^{](.|\\n)*)?/"
    else:
        open_ = writer.word(OPEN)
        more = f' ("\\n"? {open_} any)*' if is_parallel else ""
        start = f"start: {open_} any{more}"
        if not must_call:
            # Text goes on until the word that opens a call; after a call only calls follow.
            lead = f"lead: TEXT {open_}" if is_control(OPEN) else f"lead[lazy]: TEXT {open_}"
            start = f"start: lead any{more} | TEXT\n{lead}"
    lines = ["%llguidance {}", start, choice, *bodies, "TEXT: /(.|\\n)*/"]
    return Grammar("tools" if must_call else "mixed", "\n".join(lines))


class _Writer:
    """Writes the rules of calls in llguidance's dialect of Lark."""

    def __init__(self, is_control: Callable[[str], bool]) -> None:
        self._is_control = is_control

    def word(self, text: str) -> str:
        """A word of the form: a control token by its name, or its characters."""
        return text if self._is_control(text) else json.dumps(text)

    def body(self, form: ToolForm, number: int, tool: Tool) -> str:
        """The rules of a call to one tool, after the word that opens it."""
        if form == "glm":
            return self._glm_body(number, tool)
        key = "arguments" if form == "hermes" else "parameters"
        head = json.dumps(f'{{"name": {json.dumps(tool.name)}, "{key}": ')
        rule = f"args_{number}: %json {_styled(json.loads(tool.parameters))}"
        if form == "llama":
            return f'body_{number}: {head} args_{number} "}}"\n{rule}'
        return f'body_{number}: "\\n" {head} args_{number} "}}\\n" {self.word(CLOSE)}\n{rule}'

    def _glm_body(self, number: int, tool: Tool) -> str:
        schema = json.loads(tool.parameters)
        required = schema.get("required", [])
        parts, rules = [], []
        for place, (name, inner) in enumerate(schema.get("properties", {}).items()):
            wanted = inner if isinstance(inner, dict) else {}
            value, rule = self._glm_value(f"value_{number}_{place}", wanted)
            rules += rule
            part = " ".join(
                [
                    self.word(KEY_OPEN),
                    json.dumps(name),
                    self.word(KEY_CLOSE),
                    '"\\n"',
                    self.word(VALUE_OPEN),
                    value,
                    '"\\n"',
                ]
            )
            parts.append(part if name in required else f"({part})?")
        head = json.dumps(f"{tool.name}\n")
        return "\n".join([f"body_{number}: {head} {' '.join(parts)} {self.word(CLOSE)}", *rules])

    def _glm_value(self, name: str, schema: dict[str, Any]) -> tuple[str, list[str]]:
        """A value up to and with the word that closes it: texts as they are, others as JSON."""
        close = self.word(VALUE_CLOSE)
        is_text = is_text_schema(schema)
        if is_text and "enum" in schema:
            return f"({' | '.join(json.dumps(text) for text in schema['enum'])}) {close}", []
        if not is_text:
            wanted = json.dumps(schema | {"x-guidance": JSON_STYLE})
            return f"{name} {close}", [f"{name}: %json {wanted}"]
        if self._is_control(VALUE_CLOSE):
            return f"TEXT {close}", []
        return name, [f"{name}[lazy]: TEXT {close}"]


def is_text_schema(schema: object) -> bool:
    """Whether a value of this schema is a text, which GLM writes as it is."""
    return isinstance(schema, dict) and schema.get("type") == "string"


def _styled(schema: dict[str, Any]) -> str:
    """A schema in the one style of JSON; without one any object fits."""
    return json.dumps({"type": "object", **schema, "x-guidance": JSON_STYLE})
