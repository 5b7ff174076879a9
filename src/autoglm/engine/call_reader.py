"""Finds tool calls in the text of an answer while it grows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from autoglm.engine.stop import overlap
from autoglm.engine.tools import CLOSE, OPEN, ToolForm
from autoglm.types import Tool, ToolCall

_GLM_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


class CallReader:
    """Splits an answer into text and calls. What was begun as a call but is none stays text."""

    def __init__(self, form: ToolForm, tools: Sequence[Tool]) -> None:
        self._form = form
        self._tools = {tool.name: tool for tool in tools}
        self._buffer = ""
        self._is_inside = False
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
                self._buffer, self._is_inside = after, True
            body, found, after = self._buffer.partition(CLOSE)
            if not found:
                break
            self._buffer, self._is_inside = after, False
            call = self._hermes(body) if self._form == "hermes" else self._glm(body)
            if call is None:
                content += OPEN + body + CLOSE
            else:
                calls.append(call)
                self.num_calls += 1
        return self._without_gaps(content), calls

    def flush(self) -> tuple[str, list[ToolCall]]:
        """What was held back, when no more text comes."""
        text, self._buffer = self._buffer, ""
        if self._form == "llama" and (call := self._call_of(text, "parameters")):
            self.num_calls += 1
            return "", [call]
        return (OPEN + text if self._is_inside else self._without_gaps(text)), []

    def _outside_llama(self) -> str:
        """A call is the whole answer: what does not begin like one is text."""
        if self._buffer.lstrip()[:1] in ("", "{"):
            return ""
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
        name = body.partition("<arg_key>")[0].strip()
        tool = self._tools.get(name)
        if tool is None:
            return None
        properties = json.loads(tool.parameters).get("properties", {})
        arguments: dict[str, Any] = {}
        for key, text in _GLM_ARGUMENT.findall(body):
            schema = properties.get(key)
            is_text = isinstance(schema, dict) and schema.get("type") == "string"
            value = text if is_text else _parsed(text)
            arguments[key] = text if value is None and text.strip() != "null" else value
        return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def _parsed(text: str) -> Any:
    """The JSON value of a text, None when it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
