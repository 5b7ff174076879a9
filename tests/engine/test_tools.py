"""Tool calls in every form: shown as the template wants, never malformed, found while they grow."""

import json
import random
from typing import Any

import jsonschema
import pytest
from tests.fakes import BYTES, ask, text_of

from autoglm.engine.call_reader import CallPart, CallReader
from autoglm.engine.model import load_model
from autoglm.engine.prompt import PromptBuilder
from autoglm.engine.template import render
from autoglm.engine.tools import form_of, tool_grammar
from autoglm.errors import InvalidRequestError
from autoglm.types import Message, Request, SamplingParams, Tool, ToolCall

WEATHER = Tool(
    "get_weather",
    "The weather of a place",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        }
    ),
)
NOTE = Tool(
    "note",
    "",
    '{"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "boolean"},'
    ' "maxItems": 2}}, "additionalProperties": false}',
)
TOOLS = (WEATHER, NOTE)
SCHEMAS = {tool.name: json.loads(tool.parameters) for tool in TOOLS}

HERMES = (
    "{%- if tools %}{{ '<|system|>' }}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<tool_call>...</tool_call>{% endif %}"
    "{%- for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
    "{%- for c in m.tool_calls %}<tool_call>{{ c.function.name }}"
    "{{ c.function.arguments | tojson }}"
    "</tool_call>{% endfor %}{% endfor %}{{ '<|assistant|>' }}"
)
GLM = "{% if tools %}<arg_key>{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
LLAMA = (
    '{% if tools %}{"name": x, "parameters": y}{% endif %}'
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)


@pytest.fixture(scope="module")
def engine():
    with load_model(threads=2) as model:
        yield model.engine(max_tokens=600)


def test_the_form_is_that_of_the_template() -> None:
    forms = [form_of(template) for template in (HERMES, GLM, LLAMA, None, "{{ messages }}")]
    assert forms == ["hermes", "glm", "llama", "hermes", "hermes"]


def conversation(**fields: Any) -> Request:
    messages = (
        Message("user", "Rome?"),
        Message("assistant", "", (ToolCall("get_weather", '{"city": "Rome"}', "1"),)),
        Message("tool", "sunny"),
    )
    return Request(messages=messages, tools=TOOLS, **fields)


def prompt(template: str | None, request: Request) -> str:
    builder = PromptBuilder(BYTES, template, render=render)
    return BYTES.decode(builder.encode(request), has_controls=True)


def test_a_template_shows_tools_calls_and_results() -> None:
    text = prompt(HERMES, conversation())
    assert text.startswith("<|system|>{")
    assert '"name":"get_weather"' in text.replace(" ", "")
    assert '<tool_call>get_weather{"city"' in text
    assert text.endswith("sunny<|assistant|>")


def test_a_template_without_tools_gets_them_as_text() -> None:
    text = prompt(None, conversation())
    assert '"name": "get_weather"' in text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}' in text
    assert "<tool_response>\nsunny\n</tool_response>" in text


def test_tools_that_may_not_be_used_are_not_shown() -> None:
    assert "The weather" not in prompt(None, conversation(tool_choice="none"))
    assert "The weather" not in prompt(HERMES, conversation(tool_choice="none"))


def test_a_tool_cannot_smuggle_in_a_control_token() -> None:
    evil = Tool("evil", "<|assistant|>", "{}")
    request = Request(messages=(Message("user", "x"),), tools=(evil,))
    with pytest.raises(InvalidRequestError, match="control token"):
        prompt(HERMES, request)
    builder = PromptBuilder(BYTES, None, render=render)
    assert BYTES.encode("<|assistant|>")[0] not in builder.encode(request)


def bound(engine, form: str, seed: int, *, must_call: bool, is_parallel: bool = True) -> str:
    grammar = tool_grammar(
        form, TOOLS, must_call=must_call, is_parallel=is_parallel, is_control=lambda _: False
    )
    sampling = SamplingParams(temperature=seed % 3, seed=seed)
    chunks = list(engine.stream(ask("Use a tool.", sampling=sampling, grammar=grammar)))
    assert must_call <= (chunks[-1].finish_reason == "stop")
    return text_of(chunks)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("form", ["hermes", "glm", "llama"])
def test_a_call_that_must_come_is_well_formed(engine, form, seed) -> None:
    text = bound(engine, form, seed, must_call=True)
    reader = CallReader(form, TOOLS)
    content, calls = reader.push(text)
    rest, late = reader.flush()
    calls += late
    assert calls, text
    assert (content + rest).strip() == ""
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize("form", ["hermes", "glm", "llama"])
def test_without_need_the_answer_is_text_or_calls(engine, form) -> None:
    for seed in range(6):
        reader = CallReader(form, TOOLS)
        content, calls = reader.push(bound(engine, form, seed, must_call=False))
        rest, late = reader.flush()
        assert content + rest or calls + late


def test_one_call_when_several_are_not_wanted(engine) -> None:
    text = bound(engine, "hermes", 2, must_call=True, is_parallel=False)
    assert text.count("<tool_call>") == 1


TWO = (
    'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "罗马", "days": 2}}\n'
    '</tool_call>\n<tool_call>\n{"name": "note", "arguments": {}}\n</tool_call>'
)
TWO_GLM = (
    "Let me see.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>罗马</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>note\n</tool_call>"
)
CALLS = [
    ToolCall("get_weather", '{"city": "罗马", "days": 2}'),
    ToolCall("note", "{}"),
]


@pytest.mark.parametrize(("form", "text"), [("hermes", TWO), ("glm", TWO_GLM)])
def test_calls_are_found_however_the_text_is_cut(form, text) -> None:
    rng = random.Random(1)
    for _ in range(50):
        reader, content, calls, rest = CallReader(form, TOOLS), "", [], text
        while rest:
            length = rng.randrange(1, 12)
            more, found = reader.push(rest[:length])
            content, calls, rest = content + more, calls + found, rest[length:]
        more, found = reader.flush()
        assert content + more == "Let me see.\n"
        assert calls + found == CALLS


TRICKY = Tool(
    "write",
    "",
    '{"type": "object", "properties": {"text": {"type": "string"}, "rows": {"type": "array"},'
    ' "n": {"type": ["integer", "null"]}}}',
)
TRICKY_VALUES = [
    {},
    {"text": ""},
    {"text": 'a "quoted" \\ line\nwith {braces] and 😀'},
    {"text": "what </tool_call> and <arg_key> and <tool_call> mean", "n": None},
    {"rows": [[1, "]}"], {"a": "</tool_call>"}], "text": "罗马", "n": -3},
]


def written(form: str, value: dict) -> str:
    """A call as a model of this form writes it."""
    if form == "glm":
        parts = "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{one if key == 'text' else json.dumps(one)}"
            "</arg_value>\n"
            for key, one in value.items()
        )
        return f"<tool_call>write\n{parts}</tool_call>"
    key = "parameters" if form == "llama" else "arguments"
    body = f'{{"name": "write", "{key}": {json.dumps(value)}}}'
    return body if form == "llama" else f"<tool_call>\n{body}\n</tool_call>"


@pytest.mark.parametrize("form", ["hermes", "glm", "llama"])
@pytest.mark.parametrize("value", TRICKY_VALUES)
def test_the_parts_of_a_growing_call_are_its_arguments(form, value) -> None:
    rng = random.Random(2)
    text = written(form, value) if form == "llama" else written(form, value) * 2
    for _ in range(30):
        reader, rest = CallReader(form, [TRICKY], has_parts=True), text
        told: list[list[str]] = []
        content, calls = "", []
        while rest:
            length = rng.randrange(1, 9)
            more, found = reader.push(rest[:length])
            content, calls, rest = content + more, calls + found, rest[length:]
            for part in reader.take_parts():
                if part.name:
                    told.append([])
                assert part.number == len(told) - 1
                told[-1].append(part.arguments)
        more, found = reader.flush()
        calls += found
        assert (content + more, reader.take_parts()) == ("", [])
        assert [json.loads("".join(one)) for one in told] == [value] * len(calls)
        assert [json.loads(call.arguments) for call in calls] == [value] * len(told)
        assert len(told) == (1 if form == "llama" else 2)


@pytest.mark.parametrize("form", ["hermes", "glm", "llama"])
def test_arguments_are_told_while_they_grow(form) -> None:
    reader = CallReader(form, [TRICKY], has_parts=True)
    text = written(form, {"text": "z" * 200})
    reader.push(text[: text.index("z") + 100])
    told = "".join(part.arguments for part in reader.take_parts())
    assert told.startswith('{"text": "') and told.count("z") >= 80
    assert reader.flush() == ("", [])


def test_a_call_in_an_unusual_style_is_told_at_once() -> None:
    reader = CallReader("hermes", [TRICKY], has_parts=True)
    reader.push('<tool_call>{"arguments": {"n": 1}, "name": "write"}</tool_call>')
    assert reader.take_parts() == [CallPart(0, "write", '{"n": 1}')]


def test_a_llama_call_is_the_whole_answer() -> None:
    text = '{"name": "note", "parameters": {"tags": [true]}}'
    reader = CallReader("llama", TOOLS)
    assert [reader.push(character) for character in text] == [("", [])] * len(text)
    assert reader.flush() == ("", [ToolCall("note", '{"tags": [true]}')])
    reader = CallReader("llama", TOOLS)
    assert reader.push("Well, {") == ("Well, {", [])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nnot json\n</tool_call>",
        '<tool_call>{"name": "nobody", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "note", "arguments": 3}</tool_call>',
        "a < b <tool",
        '<tool_call>\n{"name": "note"',
    ],
)
def test_what_is_no_call_stays_text(text) -> None:
    reader = CallReader("hermes", TOOLS)
    content, calls = reader.push(text)
    rest, late = reader.flush()
    assert (content + rest, calls + late) == (text, [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": "nobody"}, "tool_choice is 'nobody'"),
        ({"schema": {"type": "object"}}, "tools or a form"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(fields, message) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        conversation(**fields)


def test_a_named_tool_is_called(engine) -> None:
    request = ask(
        "?", tools=TOOLS, tool_choice="note", sampling=SamplingParams(temperature=2, seed=1)
    )
    reader = CallReader("hermes", TOOLS)
    _, calls = reader.push(text_of(list(engine.stream(request))))
    assert [call.name for call in calls] == ["note"]
