"""Whatever the fields of a request hold: an answer or a 4xx that says why, and never a crash."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.serve.conftest import Server

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["", "\x00", "\ud83d", "🙂", "auto", "required", "json_object", "5m", "{"]),
)
ANY = st.recursive(
    ODD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "name", "function", "1", "schema"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
CHAT = (
    "messages",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "seed",
    "stop",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "response_format",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "priority",
    "document",
    "model",
    "max_completion_tokens",
    "ignore_eos",
)
ROUTES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "/v1/chat/completions": ({"messages": [{"role": "user", "content": "x"}]}, CHAT),
    "/v1/completions": ({"prompt": "x"}, ("prompt", "echo", "logprobs", "n", "suffix", "best_of")),
    "/v1/embeddings": ({"input": "x"}, ("input", "encoding_format", "dimensions", "model")),
    "/tokenize": ({"prompt": "x"}, ("prompt", "messages")),
    "/detokenize": ({"tokens": [1]}, ("tokens",)),
    "/api/chat": (
        {"model": "tiny", "messages": [{"role": "user", "content": "x"}]},
        ("messages", "options", "stream", "keep_alive", "format", "tools"),
    ),
    "/api/generate": (
        {"model": "tiny", "prompt": "x"},
        ("prompt", "system", "raw", "options", "stream", "keep_alive", "format"),
    ),
    "/api/embed": ({"model": "tiny", "input": "x"}, ("input",)),
    "/api/show": ({"model": "tiny"}, ("model", "name")),
}
# Short answers: the fields are what is tried.
SHORT = {"max_tokens": 2, "timeout": 5, "options": {"num_predict": 2}}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    route = draw(st.sampled_from(sorted(ROUTES)))
    base, names = ROUTES[route]
    changed = draw(st.dictionaries(st.sampled_from(names), ANY, min_size=1, max_size=3))
    return route, SHORT | base | changed


@given(requests())
def test_no_field_brings_the_service_down(tiny_server: Server, request_: tuple) -> None:
    route, body = request_
    reply = tiny_server.post(route, body)
    assert 200 <= reply.status < 500, (reply.status, reply.body)
    if reply.status >= 400:
        assert reply.json["error"]


def test_the_service_is_alive_after_all_that(tiny_server: Server) -> None:
    assert tiny_server.get("/health").status == 200
    assert tiny_server.metric("requests_running") == 0
