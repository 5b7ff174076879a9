"""Reads a tool call while it is being written: its name, then more and more of its arguments.

The argument texts of a call joined are one JSON object. What a grammar binds cannot turn out to be
something else; of other text the whole has to be judged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Protocol

from autoglm.engine.stop import overlap
from autoglm.engine.tools import (
    CLOSE,
    KEY_CLOSE,
    KEY_OPEN,
    VALUE_CLOSE,
    VALUE_OPEN,
    ToolForm,
    is_text_schema,
)
from autoglm.types import Tool

_HEAD = re.compile(
    r'\s*\{\s*"name":\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)":\s*(?=\{)'
)
_NAME = re.compile(r"\s*([^\s<]+)[\s<]")
_KEY = re.compile(rf"\s*{KEY_OPEN}(.*?){KEY_CLOSE}\s*{VALUE_OPEN}", re.DOTALL)


class GrowingCall(Protocol):
    """One call, from behind the word that opens it; `end` is where the word that closes it begins.

    `name` is empty until it is known to be one of the tools'.
    """

    name: str
    end: int | None

    def push(self, text: str) -> str:
        """Take more of the call; returns the text of its arguments that is certain by now."""


def growing_call(form: ToolForm, tools: Mapping[str, Tool]) -> GrowingCall:
    """What reads the next call."""
    return _GrowingTags(tools) if form == "glm" else _GrowingJson(tools)


class _GrowingJson:
    """`{"name": NAME, "arguments": {...}}`."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.name = ""
        self.end: int | None = None
        self._tools = tools
        self._text = ""
        self._position = 0  # what lies before it is understood
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False
        self._is_whole = False

    def push(self, text: str) -> str:
        """Take more of the call."""
        self._text += text
        if not self.name and (head := _HEAD.match(self._text)):
            name = json.loads(head[1])
            if name in self._tools:
                self.name, self._position = name, head.end()
        arguments = ""
        if self.name and not self._is_whole:
            begin = self._position
            self._position = self._scanned(begin)
            arguments = self._text[begin : self._position]
        if self._is_whole or not self.name:
            place = self._text.find(CLOSE, self._position)
            self.end = None if place < 0 else place
        return arguments

    def _scanned(self, begin: int) -> int:
        """Where the arguments end, or all that is there."""
        for place in range(begin, len(self._text)):
            character = self._text[place]
            if self._is_in_string:
                if self._is_escaped:
                    self._is_escaped = False
                else:
                    self._is_escaped = character == "\\"
                    self._is_in_string = character != '"'
            elif character == '"':
                self._is_in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._is_whole = True
                    return place + 1
        return len(self._text)


class _GrowingTags:
    """`NAME`, then `<arg_key>KEY</arg_key>` and `<arg_value>VALUE</arg_value>` in turns."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.name = ""
        self.end: int | None = None
        self._tools = tools
        self._schemas: dict[str, object] = {}
        self._text = ""
        self._position = 0  # what lies before it is understood
        self._num_keys = 0
        self._is_in_value = False
        self._is_text = False

    def push(self, text: str) -> str:
        """Take more of the call."""
        self._text += text
        if not self.name:
            self._read_name()
        arguments, before = "", -1
        while self.end is None and before != self._position:
            before = self._position
            arguments += self._value() if self._is_in_value else self._key()
        return arguments

    def _read_name(self) -> None:
        match = _NAME.match(self._text)
        tool = self._tools.get(match[1]) if match else None
        if match and tool:
            self.name, self._position = tool.name, match.end(1)
            self._schemas = json.loads(tool.parameters).get("properties", {})

    def _key(self) -> str:
        """The beginning of the next argument, or the end of all."""
        match = _KEY.match(self._text, self._position) if self.name else None
        if match is None:
            close = self._text.find(CLOSE, self._position)
            self.end = None if close < 0 else close
            if self.end is None or not self.name:
                return ""
            return "}" if self._num_keys else "{}"
        self._position = match.end()
        self._is_in_value, self._is_text = True, is_text_schema(self._schemas.get(match[1]))
        self._num_keys += 1
        begin = "{" if self._num_keys == 1 else ", "
        quote = '"' if self._is_text else ""
        return f"{begin}{json.dumps(match[1], ensure_ascii=False)}: {quote}"

    def _value(self) -> str:
        """More of a value: texts stand as they are and become JSON here."""
        begin, place = self._position, self._text.find(VALUE_CLOSE, self._position)
        if place >= 0:
            self._is_in_value, self._position = False, place + len(VALUE_CLOSE)
            end, quote = place, '"' if self._is_text else ""
        else:
            end = len(self._text) - overlap(self._text[begin:], VALUE_CLOSE)
            self._position, quote = end, ""
        piece = self._text[begin:end]
        return (json.dumps(piece, ensure_ascii=False)[1:-1] if self._is_text else piece) + quote
