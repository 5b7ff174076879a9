"""The service answers through a server with OpenAI's interface: ours, and ones that fail."""

import http.server
import json
import threading
import time
from contextlib import contextmanager

import pytest
from tests.fakes import ask, text_of
from tests.serve.conftest import serving

from autoglm.cloud.upstream import UpstreamEngine
from autoglm.errors import CloudError, InvalidRequestError, UsageError
from autoglm.types import Message, Request


@pytest.fixture(scope="module")
def upstream():
    """Our own service as the upstream server, and its model's name."""
    with serving() as server:
        model = json.loads(server.get("/v1/models").body)["data"][0]["id"]
        yield UpstreamEngine(f"http://127.0.0.1:{server.port}/v1", model)


def test_answer_comes_in_pieces_and_ends_with_its_usage(upstream):
    chunks = list(upstream.stream(ask("你好", max_tokens=8)))
    assert chunks[-1].finish_reason in ("length", "stop")
    assert chunks[-1].usage.prompt_tokens > 0
    assert [chunk.token_ids for chunk in chunks[:-1]] == [(n,) for n in range(len(chunks) - 1)]
    assert text_of(chunks) == text_of(list(upstream.stream(ask("你好", max_tokens=8))))


def test_schema_and_document_go_along(upstream):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    request = Request(messages=(Message("user", "yes?"),), text="yes", schema=schema)
    assert isinstance(json.loads(text_of(list(upstream.stream(request))))["a"], bool)


def test_unknown_model_is_refused_and_no_server_is_a_cloud_error(upstream):
    other = UpstreamEngine(f"http://{upstream._host}:{upstream._port}/v1", "unknown")
    with pytest.raises(InvalidRequestError, match="404"):
        list(other.stream(ask("?")))
    with pytest.raises(CloudError, match="upstream server failed"):
        list(UpstreamEngine("http://127.0.0.1:9/v1", "m").stream(ask("?")))


@contextmanager
def saying(lines, *, waits=0.0):
    """A server that says `lines` and breaks off."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            for line in lines:
                self.wfile.write(line.encode() + b"\n\n")
                self.wfile.flush()
            time.sleep(waits)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield UpstreamEngine(f"http://127.0.0.1:{server.server_port}/v1", "m", timeout_s=30)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


WORD = 'data: {"choices": [{"delta": {"content": "word"}}]}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "broke off after 0"),
        ([WORD], "broke off after 1"),
        ([WORD, "data: [DONE]"], "broke off after 1"),
        ([WORD, "data: {"], "something else than JSON"),
        ([WORD, 'data: {"error": {"message": "secret"}}'], "failed in the middle"),
        (['data: {"choices": [{"finish_reason": "content_filter"}]}'], "broke off"),
    ],
)
def test_answer_without_an_end_is_never_taken_for_whole(lines, message):
    with saying(lines) as engine, pytest.raises(CloudError, match=message):
        list(engine.stream(ask("?")))


def test_cancelled_request_ends_at_once():
    request = ask("?")
    with saying([WORD], waits=5.0) as engine:
        chunks = engine.stream(request)
        assert next(chunks).text == "word"
        start = time.monotonic()
        request.cancellation.cancel()
        assert [chunk.finish_reason for chunk in chunks] == ["cancelled"]
        assert time.monotonic() - start < 4


@pytest.mark.parametrize("address", ["", "host:8000", "ftp://host/v1", "http:///v1"])
def test_address_that_is_none_is_a_usage_error(address):
    with pytest.raises(UsageError, match="expected the address"):
        UpstreamEngine(address, "m")
