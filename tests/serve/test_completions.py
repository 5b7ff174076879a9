"""Completions, embeddings and tokens: the routes that harnesses and retrieval use."""

import base64
import math
from array import array

import pytest
from tests.serve.conftest import Server

ROUTE = "/v1/completions"
TEXT = "Ann: We ship on Friday. Bob: Fine."


def complete(server: Server, **fields: object) -> dict:
    reply = server.post(ROUTE, {"prompt": TEXT, "max_tokens": 4, "temperature": 0} | fields)
    assert reply.status == 200, reply.body
    return reply.json


def test_a_prompt_is_continued_as_it_stands(server) -> None:
    ids = server.post("/tokenize", {"prompt": TEXT}).json["tokens"]
    by_text, by_ids = complete(server), complete(server, prompt=ids)
    assert by_text["choices"] == by_ids["choices"]
    assert by_text["usage"]["prompt_tokens"] == len(ids)


def test_echo_scores_the_prompt(server) -> None:
    ids = server.post("/tokenize", {"prompt": TEXT}).json["tokens"]
    choice = complete(server, echo=True, logprobs=2, max_tokens=0)["choices"][0]
    scores = choice["logprobs"]
    assert choice["text"] == TEXT == "".join(scores["tokens"])
    assert len(scores["tokens"]) == len(ids)
    assert scores["token_logprobs"][0] is None
    assert scores["top_logprobs"][0] is None
    assert scores["text_offset"][:2] == [0, len(scores["tokens"][0])]
    for logprob, top in zip(scores["token_logprobs"][1:], scores["top_logprobs"][1:], strict=True):
        assert logprob <= max(top.values()) + 1e-12


def test_scores_of_an_answer_are_those_of_the_same_text_echoed(server) -> None:
    ids = server.post("/tokenize", {"prompt": TEXT}).json["tokens"]
    fresh = complete(server, prompt=ids, logprobs=1)["choices"][0]["logprobs"]
    best = [max(top.values()) for top in fresh["top_logprobs"]]
    echoed = complete(server, prompt=ids, logprobs=1, echo=True)["choices"][0]["logprobs"]
    assert echoed["token_logprobs"][len(ids) :] == fresh["token_logprobs"]
    assert fresh["token_logprobs"] == pytest.approx(best)


def test_several_prompts_and_answers_are_numbered(server) -> None:
    answer = complete(server, prompt=["One", "Two"], n=2, temperature=1, seed=1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["choices"][0]["text"] != answer["choices"][1]["text"]


def test_a_stream_has_the_text_of_the_whole(server) -> None:
    fields = {"prompt": ["One", "Two"], "echo": True, "max_tokens": 5, "temperature": 0}
    whole = complete(server, **fields)
    events = server.post(ROUTE, fields | {"stream": True}).events
    for index in (0, 1):
        choices = [e["choices"][0] for e in events if e["choices"][0]["index"] == index]
        assert "".join(c["text"] for c in choices) == whole["choices"][index]["text"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": ["x"] * 33}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": ["x"] * 20, "n": 8}, "prompt"),
    ],
)
def test_a_bad_field_is_named(tiny_server, fields, field) -> None:
    reply = tiny_server.post(ROUTE, {"prompt": "x"} | fields)
    assert (reply.status, reply.json["error"]["param"]) == (400, field)


def test_tokens_and_texts_are_inverse(server) -> None:
    ids = server.post("/tokenize", {"prompt": TEXT}).json
    assert ids["count"] == len(ids["tokens"])
    assert server.post("/detokenize", {"tokens": ids["tokens"]}).json == {"prompt": TEXT}


def test_messages_are_tokenized_with_their_template(server) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    ids = server.post("/tokenize", {"messages": messages}).json["tokens"]
    text = server.post("/detokenize", {"tokens": ids}).json["prompt"]
    assert text == "[gMASK]<sop><|user|>\nHi<|assistant|>\n"


def test_embeddings_have_length_one_in_both_encodings(server) -> None:
    body = {"input": [TEXT, "你好"]}
    plain = server.post("/v1/embeddings", body).json["data"]
    packed = server.post("/v1/embeddings", body | {"encoding_format": "base64"}).json["data"]
    assert len(plain) == 2
    for one, other in zip(plain, packed, strict=True):
        assert math.sqrt(sum(x * x for x in one["embedding"])) == pytest.approx(1)
        values = array("f", base64.b64decode(other["embedding"]))
        assert list(values) == pytest.approx(one["embedding"], rel=1e-6)


def test_near_texts_have_near_embeddings(server) -> None:
    texts = ["The meeting is on Friday.", "The meeting is on Monday.", "天气很好，我们去公园。"]
    data = server.post("/v1/embeddings", {"input": texts}).json["data"]
    vectors = [item["embedding"] for item in data]
    near, far = (sum(a * b for a, b in zip(vectors[0], v, strict=True)) for v in vectors[1:])
    assert near > far


@pytest.mark.parametrize("value", [None, "", [], [""], 5, [[]], ["x"] * 257])
def test_a_bad_input_is_named(tiny_server, value) -> None:
    reply = tiny_server.post("/v1/embeddings", {"input": value})
    assert (reply.status, reply.json["error"]["param"]) == (400, "input")
