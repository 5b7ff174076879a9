"""Tools over HTTP: with OpenAI's and Ollama's clients, whole and streamed, over several turns."""

import json

import ollama
import openai
import pytest
from tests.serve.conftest import chat

ROUTE = "/v1/chat/completions"
FUNCTION = {
    "name": "get_weather",
    "description": "The weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
TOOLS = [{"type": "function", "function": FUNCTION}]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
MESSAGES = [{"role": "user", "content": "Weather in Rome?"}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def check_arguments(text: str) -> None:
    arguments = json.loads(text)
    assert set(arguments) == {"city", "days"}
    assert 1 <= arguments["days"] <= 9


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_comes_whole(client, choice) -> None:
    answer = client.chat.completions.create(
        model="lite", messages=MESSAGES, tools=TOOLS, tool_choice=choice, max_tokens=300
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    for call in answer.message.tool_calls:
        assert (call.type, call.function.name) == ("function", "get_weather")
        check_arguments(call.function.arguments)
    assert len({call.id for call in answer.message.tool_calls}) == len(answer.message.tool_calls)


def test_a_call_comes_in_deltas(client) -> None:
    with client.chat.completions.stream(
        model="lite",
        messages=MESSAGES,
        tools=TOOLS,
        tool_choice="required",
        max_tokens=300,
        parallel_tool_calls=False,
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert len(message.tool_calls) == 1
    check_arguments(message.tool_calls[0].function.arguments)


def test_arguments_come_while_they_are_written(server) -> None:
    text = {"type": "string", "minLength": 400, "maxLength": 400}
    function = {"name": "note", "parameters": {"type": "object", "properties": {"text": text}}}
    function["parameters"]["required"] = ["text"]
    body = chat(
        "Note it",
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=600,
        stream=True,
    )
    choices = [event["choices"][0] for event in server.post(ROUTE, body).events]
    parts = [part for one in choices for part in one["delta"].get("tool_calls", [])]
    assert [part["function"].get("name") for part in parts] == ["note"] + [None] * (len(parts) - 1)
    assert len(parts) > 4
    arguments = json.loads("".join(part["function"]["arguments"] for part in parts))
    assert len(arguments["text"]) == 400
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_a_result_leads_to_the_next_turn(client) -> None:
    first = (
        client.chat.completions.create(
            model="lite", messages=MESSAGES, tools=TOOLS, tool_choice=NAMED, max_tokens=300
        )
        .choices[0]
        .message
    )
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}
    messages = [*MESSAGES, first.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(
        model="lite", messages=messages, tools=TOOLS, tool_choice="none", max_tokens=8
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_model_may_answer_without_a_call(server) -> None:
    reply = server.post(ROUTE, chat("Hello", tools=TOOLS, max_tokens=30))
    assert reply.status == 200
    message = reply.json["choices"][0]["message"]
    assert message["content"] or message["tool_calls"]


def test_ollama_shows_tools(server) -> None:
    client = ollama.Client(host=server.url)
    try:
        answer = client.chat("lite", MESSAGES, tools=TOOLS, options={"num_predict": 60})
        parts = list(
            client.chat("lite", MESSAGES, tools=TOOLS, stream=True, options={"num_predict": 60})
        )
    finally:
        client.close()
    assert answer.message.content or answer.message.tool_calls
    assert "".join(p.message.content or "" for p in parts) == (answer.message.content or "")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": TOOLS * 2}, "tools"),
        ({"tools": TOOLS * 129}, "tools"),
        ({"tools": [{"type": "robot"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "a", "parameters": 3}}]}, "tools[0].function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"function": {"name": "nobody"}}},
            "tool_choice",
        ),
        ({"tools": TOOLS, "guided_regex": "a"}, "response_format"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "a", "arguments": "{"}}],
                    },
                    *MESSAGES,
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_a_bad_field_is_named(server, fields, field) -> None:
    reply = server.post(ROUTE, chat() | fields)
    assert (reply.status, reply.json["error"]["param"]) == (400, field)


def test_the_phone_agents_actions_are_kept(server) -> None:
    body = chat("Open WeChat", guided_grammar="phone_action", max_tokens=600)
    text = server.post(ROUTE, body).json["choices"][0]["message"]["content"]
    assert text.startswith(("do(action=", "finish(message=", "<think>", "<answer>"))
