"""A real PostgreSQL and the service as its own process; nothing is collected without PostgreSQL."""

import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tools.postgres import OWNER, Postgres, find_server

ROOT = Path(__file__).parents[2]
START_S = 60
collect_ignore_glob = [] if find_server() else ["test_*.py"]


def pytest_report_header() -> list[str]:
    """Say why the tests of the cloud are missing."""
    return [] if find_server() else ["cloud: not tested: apt install postgresql"]


@pytest.fixture(scope="session")
def postgres():
    """A server with the schema."""
    server = Postgres()
    try:
        server.start()
        command = [sys.executable, "-m", "autoglm", "cloud", "migrate"]
        subprocess.run([*command, "--database", server.url(OWNER)], check=True, timeout=60)
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def secret_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cloud") / "secret"
    path.write_text(secrets.token_hex(32), encoding="utf-8")
    return path


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Service:
    """One process of the service, and how to reach it."""

    def __init__(
        self,
        postgres: Postgres,
        secret_file: Path,
        *options: str,
        context: ssl.SSLContext | None = None,
        **settings: str,
    ) -> None:
        self.port = free_port()
        self.context = context
        scheme = "http" if context is None else "https"
        self.address = f"{scheme}://localhost:{self.port}"
        self.secret = secret_file.read_bytes()
        environ = {**os.environ, **{f"AUTOGLM_CLOUD_{k}": v for k, v in settings.items()}}
        self.log = secret_file.parent / f"log-{self.port}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "autoglm", "cloud", "serve"),
                    *("--database", postgres.url(), "--secret-file", str(secret_file)),
                    *("--port", str(self.port), *options),
                ],
                env=environ,
                stderr=log,
            )
        self._await_ready()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a request without a token."""
        try:
            url = self.address + path
            with urllib.request.urlopen(url, timeout=10, context=self.context) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as err:
            with err:
                return err.code, err.read().decode()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.get("/healthz?ready")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(self.log.read_text(encoding="utf-8"))

    def stop(self) -> int:
        """Ask the process to stop and wait for it."""
        self.process.terminate()
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def service(postgres, secret_file):
    """The service with the LITE model."""
    running = Service(postgres, secret_file)
    yield running
    running.stop()
