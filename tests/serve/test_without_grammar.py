"""A service without the extra `grammar`: what needs it is refused by name, the rest works."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serve.conftest import Server, chat, serving

ROUTE = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "now"}}]


@pytest.fixture(scope="module")
def bare_server(tiny_bundle, tmp_path_factory) -> Iterator[Server]:
    """Everything that is installed here, but for llguidance."""
    packages = tmp_path_factory.mktemp("packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("llguidance"):
            (packages / entry.name).symlink_to(entry)
    with serving("--model", str(tiny_bundle), packages=packages) as server:
        yield server


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"guided_choice": ["a", "b"]}, "guided_choice"),
        ({"guided_grammar": 'start: "a"'}, "guided_grammar"),
        ({"guided_grammar": "phone_action"}, "guided_grammar"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": TOOLS}, "tools"),
        ({"tools": TOOLS, "tool_choice": "required", "stream": True}, "tools"),
    ],
)
def test_a_form_is_refused_with_the_name_of_the_extra(bare_server, fields, field) -> None:
    reply = bare_server.post(ROUTE, chat(**fields))
    error = reply.json["error"]
    assert (reply.status, error["param"], error["code"]) == (501, field, "missing_extra")
    assert "autoglm[grammar]" in error["message"]


def test_ollamas_format_is_refused_too(bare_server: Server) -> None:
    reply = bare_server.post("/api/generate", {"model": "tiny", "prompt": "x", "format": "json"})
    assert reply.status == 501
    assert "autoglm[grammar]" in reply.json["error"]


def test_the_rest_works(bare_server: Server) -> None:
    for fields in (
        {},
        {"response_format": {"type": "text"}},
        {"tools": TOOLS, "tool_choice": "none"},
    ):
        assert bare_server.post(ROUTE, chat(**fields)).status == 200
