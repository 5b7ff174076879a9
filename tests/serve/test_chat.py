"""Chat completions: what a request may say, whole answers and streams of them."""

import math

import pytest
from tests.serve.conftest import Server, chat

ROUTE = "/v1/chat/completions"


def content(server: Server, **fields: object) -> str:
    reply = server.post(ROUTE, chat(**fields))
    assert reply.status == 200, reply.body
    return reply.json["choices"][0]["message"]["content"]


def test_an_answer_has_openais_form(server) -> None:
    answer = server.post(ROUTE, chat("你好")).json
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "lite"
    assert answer["id"].startswith("chatcmpl-")
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_has_the_text_of_the_whole(server) -> None:
    whole = content(server, text="Hello there")
    reply = server.post(ROUTE, chat("Hello there", stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    deltas = [event["choices"][0] for event in reply.events]
    assert deltas[0]["delta"]["role"] == "assistant"
    assert "".join(delta["delta"].get("content", "") for delta in deltas) == whole
    assert [delta["finish_reason"] for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1]["finish_reason"] in ("stop", "length")


def test_usage_comes_last_in_a_stream_that_asks_for_it(server) -> None:
    options = {"include_usage": True}
    events = server.post(ROUTE, chat(stream=True, stream_options=options)).events
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] > 0
    assert all(event["usage"] is None for event in events[:-1])


def test_several_answers_with_seeds_are_reproducible_and_differ(server) -> None:
    body = chat(n=3, temperature=1.5, seed=7)
    first, second = (server.post(ROUTE, body).json["choices"] for _ in range(2))
    texts = [choice["message"]["content"] for choice in first]
    assert texts == [choice["message"]["content"] for choice in second]
    assert len(set(texts)) > 1
    assert [choice["index"] for choice in first] == [0, 1, 2]


def test_an_answer_does_not_depend_on_what_else_is_answered(server) -> None:
    alone = content(server, text="One", temperature=0.9, seed=3, max_tokens=24)
    several = server.post(
        ROUTE, chat("One", temperature=0.9, seed=3, n=4, max_tokens=24, min_p=0.0)
    ).json["choices"]
    assert several[0]["message"]["content"] == alone


def test_stop_strings_end_an_answer_before_themselves(server) -> None:
    whole = content(server, max_tokens=16)
    stop = whole[2:4]
    reply = server.post(ROUTE, chat(max_tokens=16, stop=stop)).json["choices"][0]
    assert reply["message"]["content"] == whole[: whole.index(stop)]
    assert reply["finish_reason"] == "stop"


def test_logit_bias_decides(server) -> None:
    token = server.post("/tokenize", {"prompt": "meeting"}).json["tokens"][0]
    text = content(server, logit_bias={str(token): 100}, max_tokens=1)
    assert text.strip() and "meeting".startswith(text.strip())


def test_logprobs_come_with_the_likeliest_tokens(server) -> None:
    answer = server.post(ROUTE, chat(logprobs=True, top_logprobs=3, max_tokens=3)).json
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) == 3
    for entry in entries:
        tops = entry["top_logprobs"]
        assert len(tops) == 3
        assert entry["token"] == tops[0]["token"], "greedy takes the likeliest"
        assert 0 < sum(math.exp(top["logprob"]) for top in tops) <= 1 + 1e-9


def test_roles_and_parts_are_read(server) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
        },
    ]
    assert server.post(ROUTE, {"messages": messages, "max_tokens": 2}).status == 200


def test_a_second_turn_finds_the_first_in_the_cache(tiny_server) -> None:
    text = "word " * 200
    first = tiny_server.post(ROUTE, chat(text)).json
    messages = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": first["choices"][0]["message"]["content"] or "."},
        {"role": "user", "content": "And then?"},
    ]
    usage = tiny_server.post(ROUTE, {"messages": messages, "max_tokens": 2}).json["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 192


LONG = "x" * 1001


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": LONG}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": {}}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
        ({"top_logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"timeout": 0}, "timeout"),
        ({"priority": 5000}, "priority"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role"),
    ],
)
def test_a_bad_field_is_named(tiny_server, fields, field) -> None:
    reply = tiny_server.post(ROUTE, chat() | fields)
    assert reply.status == 400
    assert reply.json["error"]["param"] == field
    assert field.split("[")[0].split(".")[0] in reply.json["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"a": NaN}',
        b"\xff",
        b"[" * 5000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
    ],
)
def test_what_is_no_object_is_refused(tiny_server, body) -> None:
    reply = tiny_server.post(ROUTE, body)
    assert (reply.status, reply.json["error"]["param"]) == (400, None)


def test_a_prompt_beyond_the_window_is_refused_with_both_numbers(tiny_server) -> None:
    reply = tiny_server.post(ROUTE, chat("word " * 4000))
    assert reply.status == 400
    assert "context window" in reply.json["error"]["message"]


def test_an_unknown_model_is_not_found(tiny_server) -> None:
    reply = tiny_server.post(ROUTE, chat(model="gpt-9"))
    assert reply.status == 404
    assert reply.json["error"]["code"] == "model_not_found"
    assert reply.json["error"]["param"] == "model"


def test_a_token_that_the_model_does_not_have_is_refused(tiny_server) -> None:
    reply = tiny_server.post(ROUTE, chat(logit_bias={"999999": 1}))
    assert reply.status == 400
    assert "999999" in reply.json["error"]["message"]


def test_a_request_ends_with_its_time(tiny_server) -> None:
    body = chat(max_tokens=100_000, ignore_eos=True)
    for headers, fields in (({"X-Request-Timeout": "0.05"}, {}), ({}, {"timeout": 0.05})):
        reply = tiny_server.send("POST", ROUTE, body | fields, headers)
        assert reply.status == 408
        assert reply.json["error"]["type"] == "timeout_error"


def test_the_shortest_time_is_over_and_no_failure(tiny_server) -> None:
    for _ in range(40):
        body = {"input": "some words " * 50, "timeout": 0.001}
        reply = tiny_server.post("/v1/embeddings", body)
        assert reply.status in (200, 408)
