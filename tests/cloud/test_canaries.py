"""Planted secrets are in nothing that leaves a device or that the service writes.

The whole way is real: traffic is recorded by a proxy, traces and metrics by a collector, and the
log and the files of the database are read. A policy that lets mobile numbers out is the control.
"""

import http.server
import random
import socket
import threading
from contextlib import contextmanager

import pii_corpus
import pytest
from tests.cloud.conftest import Service
from tests.fakes import ask

from autoglm.cloud.auth import make_token
from autoglm.engine.cloud import CloudEngine
from autoglm.privacy.boundary import Boundary
from autoglm.privacy.pii.detect import Detector
from autoglm.privacy.pii.kinds import Kind
from autoglm.privacy.policy import Form, Where, load_policy
from autoglm.protocol.channel import Channel, Endpoint
from autoglm.sync.clock import HybridClock
from autoglm.sync.records import Records
from autoglm.sync.remote import RemoteHub, synchronise
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore

KINDS = (Kind.CN_ID, Kind.MOBILE, Kind.BANK_CARD, Kind.EMAIL)
IN_A_PROMPT = 20


class Tap:
    """A proxy that remembers every byte of both ways."""

    def __init__(self, target):
        self.seen = bytearray()
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # nobody listens there just now
                near.close()
                continue
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source, target):
        try:
            with source, target:
                try:
                    while data := source.recv(65_536):
                        self.seen += data
                        target.sendall(data)
                finally:
                    # Closing alone tells nobody while the other thread waits for its socket.
                    target.shutdown(socket.SHUT_RDWR)
                    source.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self):
        self._listener.close()


@contextmanager
def collector():
    """A server that takes traces and metrics; gives its address and what came."""
    seen = bytearray()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.extend(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def planted(postgres, secret_file, monkeypatch):
    """Plants a number of secrets under a policy; gives them, and where each kind of trace is."""

    def plant(number, policy):
        chance = random.Random(3)
        secrets = [pii_corpus.value_of(KINDS[n % len(KINDS)], chance) for n in range(number)]
        with collector() as (address, collected):
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
            running = Service(postgres, secret_file)
            tap = Tap(running.port)
            try:
                _send(secrets, policy, tap, running)
            finally:
                running.stop()
                tap.close()
        postgres.execute("CHECKPOINT")
        stored = b"".join(
            path.read_bytes() for path in postgres.data.glob("base/*/*") if path.is_file()
        )
        log = running.log.read_bytes()
        return secrets, {
            "traffic": bytes(tap.seen),
            "telemetry": bytes(collected),
            "log": log,
            "database": stored,
        }

    return plant


def _send(secrets, policy, tap, running):
    """Ask about the secrets, keep them as records, and make requests that are refused."""
    token = make_token(running.secret.strip(), "canaries", days=1)
    channel = Channel(Endpoint(address=f"http://127.0.0.1:{tap.port}", token=token))
    engine = CloudEngine(channel, Boundary(policy, Detector(), bytes(32), None))
    for start in range(0, len(secrets), IN_A_PROMPT):
        prompt = "请记下：" + "，".join(secrets[start : start + IN_A_PROMPT])
        list(engine.stream(ask(prompt, max_tokens=1)))
    sealer = Sealer(bytes(range(32)))
    clock = HybridClock(lambda: 1_700_000_000_000)
    records = Records(MemoryStore(), sealer.index_key(), clock=clock, rng=random.Random(1))
    for n, secret in enumerate(secrets):
        records.put(secret, secret, secret)
        if n % 50 == 0:
            records.write_text(f"text {n}", "body", f"{secret} " * 100)
    hub = RemoteHub(channel, sealer)
    synchronise(records, hub)
    hub.close()


def found_in(places, secrets):
    """For each place the number of secrets that are in it."""
    return {
        name: sum(secret.encode() in content for secret in secrets)
        for name, content in places.items()
    }


def test_secrets_are_in_no_traffic_log_telemetry_or_database(planted, scale):
    secrets, places = planted(200 * scale, load_policy())
    assert found_in(places, secrets) == dict.fromkeys(places, 0)
    assert "请记下".encode() in places["traffic"]
    assert b"rpc.server.duration" in places["telemetry"]
    assert b"/autoglm.v1.SyncService" in places["log"]
    assert b"canaries" in places["database"]


def test_secrets_that_a_policy_lets_out_are_seen_in_the_traffic(planted):
    policy = load_policy()
    plain = policy.classes["mobile"]._replace(where=Where.CLOUD, form=Form.PLAIN)
    secrets, places = planted(40, policy._replace(classes={**policy.classes, "mobile": plain}))
    assert found_in(places, secrets) == {"traffic": 10, "telemetry": 0, "log": 0, "database": 0}
