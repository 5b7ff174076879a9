"""Finds tool calls in the text of an answer while it grows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoglm.engine.growing_call import GrowingCall, growing_call
from autoglm.engine.stop import overlap
from autoglm.engine.tools import (
    CLOSE,
    KEY_CLOSE,
    KEY_OPEN,
    OPEN,
    VALUE_CLOSE,
    VALUE_OPEN,
    ToolForm,
    is_text_schema,
)
from autoglm.types import Tool, ToolCall

_GLM_ARGUMENT = re.compile(
    rf"{KEY_OPEN}(.*?){KEY_CLOSE}\s*{VALUE_OPEN}(.*?){VALUE_CLOSE}", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class CallPart:
    """News of call `number`: its name when it begins, afterwards more of its arguments."""

    number: int
    name: str
    arguments: str


class CallReader:
    """Splits an answer into text and calls. What was begun as a call but is none stays text."""

    def __init__(self, form: ToolForm, tools: Sequence[Tool], *, has_parts: bool = False) -> None:
        """With `has_parts` calls are told while they grow; one that is cut is no text then."""
        self._form = form
        self._tools = {tool.name: tool for tool in tools}
        self._has_parts = has_parts
        self._parts: list[CallPart] = []
        self._buffer = ""
        self._is_inside = form == "llama"
        self._growing: GrowingCall = growing_call(form, self._tools)
        self._num_read = 0  # characters of the buffer that the growing call has
        self._is_told = False
        self.num_calls = 0

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """The text and the calls that are certain by now."""
        self._buffer += text
        if self._form == "llama":
            return self._outside_llama(), []
        content, calls = "", list[ToolCall]()
        while True:
            if not self._is_inside:
                before, found, after = self._buffer.partition(OPEN)
                if not found:
                    num_held = overlap(before, OPEN)
                    content += before[: len(before) - num_held]
                    self._buffer = before[len(before) - num_held :]
                    break
                content += before
                self._enter(after)
            self._grow()
            end = self._growing.end
            if end is None:
                break
            body, self._buffer = self._buffer[:end], self._buffer[end + len(CLOSE) :]
            self._is_inside = False
            call = self._hermes(body) if self._form == "hermes" else self._glm(body)
            if call is None:
                content += OPEN + body + CLOSE
            else:
                calls.append(self._counted(call))
        return self._without_gaps(content), calls

    def flush(self) -> tuple[str, list[ToolCall]]:
        """What was held back, when no more text comes."""
        text, self._buffer = self._buffer, ""
        if self._form == "llama" and (call := self._call_of(text, "parameters")):
            return "", [self._counted(call)]
        if self._is_told:
            return "", []
        opened = OPEN if self._is_inside and self._form != "llama" else ""
        return (opened + text if opened else self._without_gaps(text)), []

    def take_parts(self) -> list[CallPart]:
        """What was not told of calls yet."""
        parts, self._parts = self._parts, []
        return parts

    def _enter(self, text: str) -> None:
        self._buffer, self._is_inside, self._num_read, self._is_told = text, True, 0, False
        self._growing = growing_call(self._form, self._tools)

    def _grow(self) -> None:
        """Hand what is new to the growing call, and tell what it brings."""
        arguments = self._growing.push(self._buffer[self._num_read :])
        self._num_read = len(self._buffer)
        if not self._has_parts or not self._growing.name:
            return
        if not self._is_told:
            self._is_told = True
            self._parts.append(CallPart(self.num_calls, self._growing.name, ""))
        if arguments:
            self._parts.append(CallPart(self.num_calls, "", arguments))

    def _counted(self, call: ToolCall) -> ToolCall:
        """A call that is whole; one written in a way of its own is told now."""
        if self._has_parts and not self._is_told:
            self._parts.append(CallPart(self.num_calls, call.name, call.arguments))
        self._is_told = False
        self.num_calls += 1
        return call

    def _outside_llama(self) -> str:
        """A call is the whole answer: what does not begin like one is text."""
        if self._is_inside and self._buffer.lstrip()[:1] in ("", "{"):
            self._grow()
            return ""
        self._is_inside = False
        text, self._buffer = self._buffer, ""
        return text

    def _without_gaps(self, content: str) -> str:
        """White space between calls and after the last one is no text."""
        return "" if self.num_calls and not content.strip() else content

    def _hermes(self, body: str) -> ToolCall | None:
        return self._call_of(body, "arguments")

    def _call_of(self, body: str, key: str) -> ToolCall | None:
        value = _parsed(body)
        if not isinstance(value, dict) or value.get("name") not in self._tools:
            return None
        arguments = value.get(key)
        if not isinstance(arguments, dict):
            return None
        return ToolCall(str(value["name"]), json.dumps(arguments, ensure_ascii=False))

    def _glm(self, body: str) -> ToolCall | None:
        name = body.partition(KEY_OPEN)[0].strip()
        tool = self._tools.get(name)
        if tool is None:
            return None
        properties = json.loads(tool.parameters).get("properties", {})
        arguments: dict[str, Any] = {}
        for key, text in _GLM_ARGUMENT.findall(body):
            value = text if is_text_schema(properties.get(key)) else _parsed(text)
            arguments[key] = text if value is None and text.strip() != "null" else value
        return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def _parsed(text: str) -> Any:
    """The JSON value of a text, None when it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
