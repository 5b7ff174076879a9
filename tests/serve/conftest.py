"""A real service in a process of its own, and a plain HTTP client that hides nothing."""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# `make test` says so: the console is tested where a browser is.
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
collect_ignore = [] if BROWSER else ["test_console.py"]

ADDRESS = re.compile(r"serving on http://127\.0\.0\.1:(\d+)")


@dataclass
class Reply:
    """A response that was read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of server-sent events."""
        lines = [line[6:] for line in self.body.split(b"\n\n") if line.startswith(b"data: ")]
        assert lines.pop() == b"[DONE]"
        return [json.loads(line) for line in lines]


@dataclass
class Server:
    """Where a service listens."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.send("POST", path, body, headers)

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers=headers)

    def metric(self, name: str) -> float:
        """The value of a gauge or counter without labels."""
        match = re.search(rf"^autoglm_{name} (\S+)$", self.get("/metrics").body.decode(), re.M)
        return float(match[1]) if match else 0.0


@contextmanager
def serving(
    *arguments: str, config: Path | None = None, packages: Path | None = None
) -> Iterator[Server]:
    """Run `autoglm serve` on a free port; it must end by itself when asked to.

    With `packages` only what lies there is installed.
    """
    environ = os.environ | {"AUTOGLM_THREADS": "2"}
    environ.pop("AUTOGLM_CONFIG", None)
    if config is not None:
        environ["AUTOGLM_CONFIG"] = str(config)
    python = [sys.executable]
    if packages is not None:
        environ["PYTHONPATH"] = str(packages)
        python += ["-S"]
    process = subprocess.Popen(
        [*python, "-m", "autoglm", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if match := ADDRESS.search(line):
                break
        else:
            pytest.fail("the service did not start")
        # Nobody reads on: what it logs must not fill the pipe.
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield Server(int(match[1]), process)
        process.terminate()
        assert process.wait(30) == 0
        drain.wait(10)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A service of the LITE model."""
    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def tiny_server(tiny_bundle) -> Iterator[Server]:
    """A service of a random model with two slots and a queue of two."""
    with serving("--model", str(tiny_bundle), "--slots", "2", "--queue", "2") as running:
        yield running


def chat(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8} | fields
