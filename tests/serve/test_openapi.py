"""The OpenAPI document: every route is in it, and its fields are those that the service reads."""

from typing import Any

import pytest
from fuzz_service import Fuzzer
from tests.serve.conftest import Server

from autoglm.serve.openapi import BODIES

# What nobody can mean, for any field.
NONSENSE = {"nonsense": [[]]}
# Objects of any content, and fields that count only beside others.
FREE = {"logit_bias", "guided_json", "format", "response_format", "stream_options", "options"}
FREE |= {"tool_choice", "max_tokens", "top_logprobs"}
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
    "/detokenize": {"tokens": [1]},
    "/api/chat": {"model": "tiny", "messages": [{"role": "user", "content": "x"}]},
    "/api/generate": {"model": "tiny", "prompt": "x"},
    "/api/embed": {"model": "tiny", "input": "x"},
    "/api/embeddings": {"model": "tiny", "prompt": "x"},
}
FIELDS = [
    (path, name)
    for path, schema in BODIES.items()
    for name in schema.get("properties", {})
    if name not in FREE and (path, name) != ("/api/show", "name")
]


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_every_field_of_the_document_is_read(tiny_server: Server, path, name) -> None:
    reply = tiny_server.post(path, BASES.get(path, {}) | {name: NONSENSE})
    assert reply.status == 400
    error = reply.json["error"]
    assert name in (error if isinstance(error, str) else error["param"])


def test_every_route_is_in_the_document(tiny_server: Server) -> None:
    document = tiny_server.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert set(BODIES) <= set(document["paths"])
    for path in ("/health", "/metrics", "/v1/models/{name}", "/api/tags"):
        assert "get" in document["paths"][path]
    name = document["paths"]["/v1/models/{name}"]["get"]["parameters"][0]
    assert (name["name"], name["in"]) == ("name", "path")


def test_random_requests_made_from_the_document_bring_no_5xx(tiny_server: Server) -> None:
    fuzzer = Fuzzer(tiny_server.port, seed=7)
    for _ in range(300):
        fuzzer.ask()
    fuzzer.close()
    assert fuzzer.failures == []
    assert fuzzer.tally[200] > 20 and fuzzer.tally[400] > 20
