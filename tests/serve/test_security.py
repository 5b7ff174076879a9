"""Who may reach the service: addresses, hosts, origins, keys and the size of bodies."""

import asyncio
import json
import socket

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from tests.serve.conftest import Server, chat, serving

from autoglm.cli.main import main
from autoglm.config import load_settings
from autoglm.errors import UsageError
from autoglm.serve.app import _routes, make_service
from autoglm.serve.settings import ServeSettings

KEY = "0123456789abcdef-key"

HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost.",
    "",
    ":{port}",
    "[::2]",
    "10.0.0.1:{port}",
    "localhost:port",
    "a b",
    "127.0.0.1:{port}:1",
    "user@localhost",
]
ORIGINS = [
    "http://evil.example",
    "https://evil.example:{port}",
    "null",
    "file://",
    "",
    "http://127.0.0.1.evil.example:{port}",
    "http://localhost",
    "http://127.0.0.1:1",
]
TYPES = ["application/json", "text/plain"]


@pytest.fixture(scope="module")
def locked(tmp_path_factory, tiny_bundle):
    """A service that wants a key."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"another-key-0123456789\n{KEY}\n")
    path.chmod(0o600)
    with serving("--model", str(tiny_bundle), "--api-key-file", str(path)) as server:
        yield server


def routes() -> list[tuple[str, str]]:
    """Every route of the service, as (method, path)."""
    service = make_service(load_settings(environ={}), ServeSettings())
    found = [
        route
        for route in Starlette(routes=_routes(service, None)).routes
        if isinstance(route, Route)
    ]
    asyncio.run(service.close())
    return [(m, route.path) for route in found for m in sorted(route.methods or {"GET"})]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("host", HOSTS)
def test_another_host_is_refused(tiny_server: Server, host, kind) -> None:
    headers = {"Host": host.format(port=tiny_server.port), "Content-Type": kind}
    reply = tiny_server.send("POST", "/v1/chat/completions", chat(), headers)
    assert reply.status in (400, 403)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("origin", ORIGINS)
def test_another_origin_is_refused(tiny_server: Server, origin, kind) -> None:
    headers = {"Origin": origin.format(port=tiny_server.port), "Content-Type": kind}
    reply = tiny_server.send("POST", "/v1/chat/completions", chat(), headers)
    assert reply.status == 403
    assert reply.json["error"]["code"] == "bad_origin"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:{port}"])
def test_own_names_are_answered(tiny_server: Server, host) -> None:
    name = host.format(port=tiny_server.port)
    headers = {"Host": name, "Origin": f"http://{name.lower()}"}
    assert tiny_server.send("GET", "/v1/models", headers=headers).status == 200


def test_a_page_of_another_site_is_refused_without_an_origin(tiny_server: Server) -> None:
    reply = tiny_server.send("GET", "/v1/models", headers={"Sec-Fetch-Site": "cross-site"})
    assert reply.status == 403


def raw(server: Server, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head + b"\r\n\r\n")
        return connection.recv(4096)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1",
        b"GET /v1/models HTTP/1.0",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nOrigin: http://localhost",
        b"OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example",
        b"GET http://localhost/v1/models HTTP/1.1\r\nHost: localhost",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost",
    ],
)
def test_odd_requests_are_refused(tiny_server: Server, head) -> None:
    status = int(raw(tiny_server, head).split()[1])
    assert status in (400, 403, 404)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"GET /", b"a" * 1000),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nx: ", b"a" * 1000),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"x: y\r\n" * 100),
    ],
)
def test_a_head_without_end_is_cut_off(tiny_server: Server, head, piece) -> None:
    with socket.create_connection(("127.0.0.1", tiny_server.port), timeout=30) as connection:
        connection.sendall(head)
        sent = 0
        try:
            while sent < 2**20:
                connection.sendall(piece)
                sent += len(piece)
            status = connection.recv(4096).split()[1]
        except (BrokenPipeError, ConnectionResetError):
            status = b"400"  # it was cut off before everything was sent
    assert status == b"400"
    assert tiny_server.get("/health").status == 200


@pytest.mark.parametrize(("method", "path"), routes())
def test_every_route_but_health_wants_the_key(locked: Server, method, path) -> None:
    reply = locked.send(
        method, path.replace("{name:path}", "tiny").replace("{name}", "main.js"), {}
    )
    if path == "/health":
        assert reply.status == 200
    else:
        assert reply.status == 401
        assert "www-authenticate" in reply.headers


@pytest.mark.parametrize(
    "value", ["", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, "Basic !", "Basic eDp5"]
)
def test_a_wrong_key_is_refused(locked: Server, value) -> None:
    assert locked.send("GET", "/v1/models", headers={"Authorization": value}).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": "bearer another-key-0123456789"},
        {"x-api-key": KEY},
        {"Authorization": "Basic dXNlcjowMTIzNDU2Nzg5YWJjZGVmLWtleQ=="},
    ],
)
def test_a_right_key_is_let_in(locked: Server, headers) -> None:
    assert locked.send("GET", "/v1/models", headers=headers).status == 200


def test_a_body_beyond_the_bound_is_refused_announced_or_not(tiny_server: Server) -> None:
    announced = tiny_server.send(
        "POST", "/v1/chat/completions", b"", {"Content-Length": str(20 * 10**6 + 1)}
    )
    assert announced.status == 413
    with socket.create_connection(("127.0.0.1", tiny_server.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        seen = b""
        connection.settimeout(10)
        try:
            for _ in range(25):
                connection.sendall(piece)
            seen = connection.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            seen = b"HTTP/1.1 413"  # it was cut off before everything was sent
        assert b" 413" in seen.split(b"\r\n")[0]


HUGE = {
    "numbers": (b'{"prompt":[' + b"1," * 2_000_000 + b"1]}", "values"),
    "objects": (b'{"messages":[' + b"{}," * 100_000 + b"{}]}", "objects and lists"),
    "depth": (b'{"messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "levels"),
}


@pytest.mark.parametrize(("body", "message"), HUGE.values(), ids=HUGE)
def test_bodies_of_very_many_values_are_refused_unbuilt(tiny_server: Server, body, message) -> None:
    reply = tiny_server.send("POST", "/v1/chat/completions", body)
    assert reply.status == 400
    assert message in reply.json["error"]["message"]


def test_text_counts_as_one_value(tiny_server: Server) -> None:
    prompt = json.dumps({"prompt": "[{,:" * 70_000}).encode()
    assert tiny_server.send("POST", "/tokenize", prompt).status == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--allow-remote"),
        (["--host", "0.0.0.0", "--allow-remote"], "--api-key-file"),
        (["--api-key-file", "/nonexistent/keys"], "No such file"),
        (["--host", "192.0.2.1", "--allow-remote"], "--api-key-file"),
    ],
)
def test_an_open_service_is_not_started(arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        main(["serve", *arguments])


@pytest.mark.parametrize(("mode", "text"), [(0o644, KEY), (0o600, "short"), (0o600, "")])
def test_a_key_file_that_is_no_secret_is_refused(tmp_path, mode, text) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(UsageError, match="key file"):
        main(["serve", "--api-key-file", str(path)])
