"""The service as an OpenAPI 3.1 document: every route, and every field that a request may have.

Its bounds are those that the parsers keep to; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from autoglm import __version__
from autoglm.serve.completions import MAX_PROMPTS
from autoglm.serve.parse import (
    MAX_ANSWERS,
    MAX_BIASED,
    MAX_CHOICES,
    MAX_PRIORITY,
    MAX_STOP_CHARS,
    MAX_TIMEOUT_S,
)
from autoglm.serve.texts import MAX_IDS, MAX_INPUTS
from autoglm.serve.tool_fields import MAX_TOOLS
from autoglm.types import MAX_LOGPROBS, MAX_SEED, MAX_STOP_STRINGS, MAX_TOKEN_ID, MAX_TOKENS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
YES_OR_NO: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}


def whole(low: int, high: int) -> Schema:
    """A whole number in a range."""
    return {"type": "integer", "minimum": low, "maximum": high}


def real(low: float, high: float) -> Schema:
    """A number in a range."""
    return {"type": "number", "minimum": low, "maximum": high}


def some(items: Schema, most: int, least: int = 0) -> Schema:
    """A list."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def one_of(*words: str) -> Schema:
    """One of a few words."""
    return {"enum": list(words)}


def record(properties: dict[str, Schema], *required: str) -> Schema:
    """An object; fields that are not named here are left alone."""
    return {"type": "object", "properties": properties, "required": list(required)}


IDS = some(whole(0, MAX_TOKEN_ID), MAX_IDS, 1)
STOP_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
STOP: Schema = {"anyOf": [STOP_TEXT, some(STOP_TEXT, MAX_STOP_STRINGS)]}
JSON_SCHEMA: Schema = {"anyOf": [OBJECT, YES_OR_NO, TEXT]}
FUNCTION = record({"name": TEXT, "description": TEXT, "parameters": OBJECT}, "name")
TOOL = record({"type": one_of("function"), "function": FUNCTION}, "function")
CALL = record({"id": TEXT, "function": record({"name": TEXT, "arguments": TEXT}, "name")})
PART = record({"type": one_of("text", "input_text"), "text": TEXT}, "type", "text")
MESSAGE = record(
    {
        "role": one_of("system", "developer", "user", "assistant", "tool"),
        "content": {"anyOf": [TEXT, some(PART, 256)]},
        "tool_calls": some(CALL, 64),
    },
    "role",
)
MESSAGES = some(MESSAGE, 4096, 1)
CHOICE = {"anyOf": [one_of("auto", "none", "required"), OBJECT]}
FORM = record(
    {
        "type": one_of("text", "json_object", "json_schema"),
        "json_schema": record({"name": TEXT, "schema": JSON_SCHEMA, "strict": YES_OR_NO}),
    }
)

SAMPLING: dict[str, Schema] = {
    "temperature": real(0, 100),
    "top_p": real(0, 1),
    "top_k": whole(-1, 2**31 - 1),
    "min_p": real(0, 1),
    "repetition_penalty": real(1e-3, 1e3),
    "presence_penalty": real(-2, 2),
    "frequency_penalty": real(-2, 2),
    "seed": whole(-(2**63), MAX_SEED),
    "logit_bias": {
        "type": "object",
        "additionalProperties": real(-100, 100),
        "maxProperties": MAX_BIASED,
    },
    "ignore_eos": YES_OR_NO,
}
WISHES: dict[str, Schema] = {
    **SAMPLING,
    "model": TEXT,
    "n": whole(1, MAX_ANSWERS),
    "stop": STOP,
    "max_tokens": whole(1, MAX_TOKENS),
    "max_completion_tokens": whole(1, MAX_TOKENS),
    "stream": YES_OR_NO,
    "stream_options": record({"include_usage": YES_OR_NO}),
    "priority": whole(-MAX_PRIORITY, MAX_PRIORITY),
    "timeout": real(0.001, MAX_TIMEOUT_S),
    "response_format": FORM,
    "guided_json": JSON_SCHEMA,
    "guided_regex": TEXT,
    "guided_choice": {"anyOf": [TEXT, some({"type": "string", "minLength": 1}, MAX_CHOICES)]},
    "guided_grammar": TEXT,
}
CHAT: dict[str, Schema] = {
    **WISHES,
    "messages": MESSAGES,
    "logprobs": YES_OR_NO,
    "top_logprobs": whole(0, MAX_LOGPROBS),
    "tools": some(TOOL, MAX_TOOLS),
    "tool_choice": CHOICE,
    "parallel_tool_calls": YES_OR_NO,
    "document": TEXT,
    "layers": YES_OR_NO,
}
COMPLETION: dict[str, Schema] = {
    **WISHES,
    "prompt": {"anyOf": [TEXT, IDS, some({"anyOf": [TEXT, IDS]}, MAX_PROMPTS, 1)]},
    "max_tokens": whole(0, MAX_TOKENS),
    "echo": YES_OR_NO,
    "logprobs": whole(0, MAX_LOGPROBS),
}
INPUT: Schema = {"anyOf": [TEXT, IDS, some({"anyOf": [TEXT, IDS]}, MAX_INPUTS, 1)]}
OPTIONS = record(
    {
        "temperature": real(0, 100),
        "top_p": real(0, 1),
        "top_k": whole(0, 2**31 - 1),
        "min_p": real(0, 1),
        "repeat_penalty": real(1e-3, 1e3),
        "presence_penalty": real(-2, 2),
        "frequency_penalty": real(-2, 2),
        "seed": whole(-(2**63), MAX_SEED),
        "num_predict": whole(-2, MAX_TOKENS),
        "stop": STOP,
    }
)
OLLAMA: dict[str, Schema] = {
    "model": TEXT,
    "stream": YES_OR_NO,
    "keep_alive": {"anyOf": [TEXT, {"type": "number"}]},
    "format": {"anyOf": [one_of("json"), OBJECT]},
    "options": OPTIONS,
}

# What POST requests hold, and what they must hold.
BODIES: dict[str, Schema] = {
    "/v1/chat/completions": record(CHAT, "messages"),
    "/v1/completions": record(COMPLETION, "prompt"),
    "/v1/embeddings": record(
        {
            "model": TEXT,
            "input": INPUT,
            "encoding_format": one_of("float", "base64"),
            "timeout": WISHES["timeout"],
        },
        "input",
    ),
    "/tokenize": record({"model": TEXT, "prompt": TEXT, "messages": MESSAGES}),
    "/detokenize": record({"model": TEXT, "tokens": IDS}, "tokens"),
    "/api/chat": record({**OLLAMA, "messages": MESSAGES, "tools": some(TOOL, MAX_TOOLS)}, "model"),
    "/api/generate": record({**OLLAMA, "prompt": TEXT, "system": TEXT, "raw": YES_OR_NO}, "model"),
    "/api/embed": record({"model": TEXT, "input": INPUT}, "model", "input"),
    "/api/embeddings": record({"model": TEXT, "prompt": INPUT}, "model", "prompt"),
    "/api/show": record({"model": TEXT, "name": TEXT}),
    "/config/reload": OBJECT,
}
ERROR = {"description": "what is wrong; `param` names the field", "content": {}}
ANSWER = {"description": "the answer", "content": {}}


def document(routes: list[tuple[str, str]]) -> Schema:
    """For all `routes`, (method, path)."""
    paths: dict[str, Schema] = {}
    for method, path in routes:
        operation: Schema = {"responses": {"200": ANSWER, "4XX": ERROR}}
        if names := [part[1:-1].partition(":")[0] for part in path.split("/") if part[:1] == "{"]:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": TEXT} for name in names
            ]
        if path in BODIES:
            content = {"application/json": {"schema": BODIES[path]}}
            operation["requestBody"] = {"required": True, "content": content}
        paths.setdefault(path.replace(":path}", "}"), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "autoglm", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }
