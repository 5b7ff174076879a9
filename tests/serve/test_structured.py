"""Answers of a given form over HTTP, in the ways that clients ask for them."""

import json
import re

import openai
import pydantic
import pytest
from tests.serve.conftest import chat

ROUTE = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

NAMED = {"name": "person", "schema": SCHEMA}


def text(server, **fields) -> str:
    reply = server.post(ROUTE, chat("A person?", max_tokens=200, temperature=1, seed=2, **fields))
    assert reply.status == 200, reply.body
    choice = reply.json["choices"][0]
    assert choice["finish_reason"] == "stop"
    return choice["message"]["content"]


@pytest.mark.parametrize(
    "fields",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "p", "schema": SCHEMA},
            }
        },
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
    ],
)
def test_a_schema_is_kept(server, fields) -> None:
    person = json.loads(text(server, **fields))
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


def test_a_json_object_is_one(server) -> None:
    assert isinstance(json.loads(text(server, response_format={"type": "json_object"})), dict)


def test_regex_choice_and_grammar_are_kept(server) -> None:
    assert re.fullmatch("[a-c]{4}", text(server, guided_regex="[a-c]{4}"))
    assert text(server, guided_choice=["yes", "no"]) in ("yes", "no")
    assert text(server, guided_grammar='start: "a" | "b"') in ("a", "b")


def test_a_streamed_answer_keeps_its_schema(server) -> None:
    body = chat("A person?", max_tokens=200, stream=True, guided_json=SCHEMA)
    deltas = [event["choices"][0]["delta"] for event in server.post(ROUTE, body).events]
    person = json.loads("".join(delta.get("content", "") for delta in deltas))
    assert set(person) == {"name", "age"}


def test_completions_and_ollama_keep_it_too(server) -> None:
    body = {"prompt": "A person:", "max_tokens": 200, "guided_json": SCHEMA}
    assert set(json.loads(server.post("/v1/completions", body).json["choices"][0]["text"]))
    body = {"model": "lite", "prompt": "A person?", "stream": False, "format": SCHEMA}
    assert set(json.loads(server.post("/api/generate", body).json["response"])) == {"name", "age"}
    body |= {"format": "json"}
    assert isinstance(json.loads(server.post("/api/generate", body).json["response"]), dict)


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_openai_parses_into_a_class(server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = client.chat.completions.parse(
            model="lite",
            messages=[{"role": "user", "content": "A person?"}],
            response_format=Person,
            max_tokens=200,
        )
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": "json"}, "response_format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": [1]}, "guided_json"),
        ({"guided_json": {"type": "wizard"}}, "guided_json"),
        ({"guided_regex": "(a)" * 60_000}, "guided_regex"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_choice": [""]}, "guided_choice"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "response_format"),
        ({"guided_json": {"type": "array", "minItems": 10**9}}, "guided_json"),
    ],
)
def test_a_form_that_cannot_be_is_refused_by_name(server, fields, field) -> None:
    reply = server.post(ROUTE, chat() | fields)
    assert (reply.status, reply.json["error"]["param"]) == (400, field)
