"""The service answers through a real Ray cluster on this machine, also after a replica has died."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.cloud.conftest import Service, free_port
from tests.fakes import ask, text_of

from autoglm.cloud.auth import make_token
from autoglm.engine.cloud import CloudEngine
from autoglm.errors import CloudError
from autoglm.privacy.boundary import Boundary
from autoglm.privacy.pii.detect import Detector
from autoglm.privacy.policy import load_policy
from autoglm.protocol.channel import Channel, Endpoint

BOUNDARY = Boundary(load_policy(None), Detector(), bytes(32), None)
OBJECT_STORE = 80 * 2**20
START_S = 120
# Every process of our cluster has inherited it.
MARK = "AUTOGLM_TEST_CLUSTER"


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "autoglm", "cloud", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node; its address. Every process that meets it inherits its token."""
    port = free_port()
    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_AUTH_MODE", "token")
    environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as directory:
        head = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
                *("--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "4"),
                *("--include-dashboard", "false", "--disable-usage-stats"),
                *("--object-store-memory", str(OBJECT_STORE), "--temp-dir", directory),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, MARK: str(port)},
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(60)
            environment.undo()


@pytest.fixture(scope="module")
def service(cluster, postgres, secret_file):
    """The service in front of a deployment with the LITE model."""
    end = time.monotonic() + START_S
    while (deployed := run("deploy", "--ray", cluster, "--threads", "1")).returncode:
        assert time.monotonic() < end, deployed.stderr
        time.sleep(1)
    running = Service(postgres, secret_file, "--ray", cluster)
    yield running
    running.stop()


def asked(service):
    token = make_token(service.secret.strip(), "t", days=1)
    return CloudEngine(Channel(Endpoint(address=service.address, token=token)), BOUNDARY)


def replica_processes(cluster):
    """The processes of the deployment's replicas: their titles tell, and what they inherited."""
    mark = f"{MARK}={cluster.rpartition(':')[2]}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            title, environ = (directory / name for name in ("cmdline", "environ"))
            is_ours = mark in environ.read_bytes().split(b"\0")
            if is_ours and b"ServeReplica:autoglm:" in title.read_bytes():
                found.append(int(directory.name))
        except OSError:
            continue
    return found


def test_replica_answers_and_its_successor_does_after_it_was_killed(service, cluster):
    first = list(asked(service).stream(ask("你好", max_tokens=8)))
    assert first[-1].finish_reason in ("length", "stop")
    (victim,) = replica_processes(cluster)
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + START_S
    while True:
        try:
            again = list(asked(service).stream(ask("你好", max_tokens=8)))
            break
        except CloudError:
            assert time.monotonic() < end
            time.sleep(0.5)
    assert text_of(again) == text_of(first)


def test_no_cluster_is_told_in_one_line(postgres, secret_file):
    database = ("--database", postgres.url(), "--secret-file", str(secret_file))
    done = run("serve", "--ray", "127.0.0.1:9", *database)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no Ray cluster" in done.stderr
