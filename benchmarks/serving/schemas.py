"""Random JSON schemas and tools, and whether answers that are bound to them keep to them."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

from jsonschema import Draft202012Validator

from serving.client import Answer, Server, messages
from serving.speed import Sample

WORDS = ("name", "city", "when", "名称", "size", "is_open", "tags", "note", "x-y", "a b")
MOST_TOKENS = 1024
AT_ONCE = 8


def random_schema(rng: Random, depth: int = 0) -> dict[str, Any]:
    """A schema that some value fits."""
    kinds = ["string", "integer", "number", "boolean", "enum", "null"]
    if depth < 3:
        kinds += ["object", "array", "anyOf", "ref"] if depth else ["object"] * 8
    kind = rng.choice(kinds)
    match kind:
        case "object":
            return random_object(rng, depth)
        case "array":
            least = rng.randrange(3)
            items = random_schema(rng, depth + 1)
            most = least + rng.randrange(3)
            return {"type": "array", "items": items, "minItems": least, "maxItems": most}
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth + 1) for _ in range(rng.randint(2, 3))]}
        case "string":
            return random_text(rng)
        case "integer":
            low = rng.randint(-1000, 1000)
            return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 5000)}
        case "number":
            return {"type": "number", "minimum": -10, "maximum": rng.randint(-9, 99)}
        case "enum":
            values = [rng.choice(WORDS), rng.randint(-9, 9), True, None, 'a"b\\c', "行动"]
            return {"enum": rng.sample(values, rng.randint(1, 4))}
        case "ref":
            return {"$ref": "#/$defs/part"}
        case _:
            return {"type": kind}


def random_object(rng: Random, depth: int) -> dict[str, Any]:
    """With some of its properties required."""
    names = rng.sample(WORDS, rng.randint(1, 4))
    properties = {name: random_schema(rng, depth + 1) for name in names}
    required = rng.sample(names, rng.randint(0, len(names)))
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    schema["additionalProperties"] = False
    if depth == 0:
        schema["$defs"] = {"part": {"type": "string", "maxLength": 6}}
    return schema


def random_text(rng: Random) -> dict[str, Any]:
    """Bounded by a length, a pattern or a format."""
    least = rng.randrange(4)
    return rng.choice(
        [
            {"type": "string", "minLength": least, "maxLength": least + rng.randrange(20)},
            {"type": "string", "pattern": rng.choice(["^[A-Z]{2}[0-9]{1,3}$", "^(ja|nein)$"])},
            {"type": "string", "format": rng.choice(["date", "uuid", "ipv4", "time"])},
        ]
    )


async def schemas(server: Server, count: int, seed: int) -> Sample:
    """How many of `count` answers parse and validate; every other is a call of a tool."""
    rng, tally = Random(seed), {"asked": 0.0, "valid": 0.0, "unusable": 0.0}
    failures: list[str] = []
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, schema: dict[str, Any], body: dict[str, Any]) -> None:
        async with turns:
            answer = await server.ask(body)
        tally["asked"] += 1
        if answer.status != 200:
            tally["unusable"] += 1
        elif keeps_to(answer, schema, is_call=bool(number % 2)):
            tally["valid"] += 1
        else:
            failures.append(json.dumps({"schema": schema, "text": answer.text[-200:]}))

    work = []
    for number in range(count):
        schema = random_object(rng, 0)
        more = tool_fields(schema) if number % 2 else {"guided_json": schema}
        sampling = {"temperature": rng.choice([0, 1, 1.5]), "seed": number}
        body = {"messages": messages(rng, 8), "max_tokens": MOST_TOKENS, **sampling, **more}
        work.append(one(number, schema, body))
    await asyncio.gather(*work)
    for failure in failures[:5]:
        print(f"bench-serve: does not keep to its form: {failure}")
    return tally


def tool_fields(schema: dict[str, Any]) -> dict[str, Any]:
    """A request that has to call a tool with such arguments."""
    function = {"name": "act", "description": "", "parameters": schema}
    tools = [{"type": "function", "function": function}]
    return {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}


def keeps_to(answer: Answer, schema: dict[str, Any], *, is_call: bool) -> bool:
    """Whether all of the answer parses and validates."""
    if is_call and (not answer.calls or answer.finish != "tool_calls"):
        return False
    texts = [call["arguments"] for call in answer.calls] if is_call else [answer.text]
    validator = Draft202012Validator(schema)
    try:
        return all(validator.is_valid(json.loads(text)) for text in texts)
    except ValueError:
        return False
