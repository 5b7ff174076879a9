"""Devices synchronise through the running service, by every protocol, and nobody else can."""

import asyncio
import json
import random
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest
from tests.cloud.conftest import Service
from tools.postgres import OWNER, Postgres

from autoglm.cloud.auth import make_token
from autoglm.cloud.database import migrate
from autoglm.errors import CloudError, SyncError, UsageError
from autoglm.protocol.channel import Channel, Endpoint, UnreachableError
from autoglm.protocol.v1.sync_pb2 import Hello, SyncRequest, SyncResponse
from autoglm.sync.blobs import BlockSealer, download, upload
from autoglm.sync.clock import HybridClock
from autoglm.sync.link import PROTOCOL
from autoglm.sync.records import Records
from autoglm.sync.remote import RemoteBlocks, RemoteHub, synchronise
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore

ROOT_KEY = bytes(range(32))
PATHS = [
    "/autoglm.v1.SyncService/Round",
    "/autoglm.v1.SyncService/Exchange",
    "/autoglm.v1.BlockService/Missing",
    "/autoglm.v1.BlockService/Put",
    "/autoglm.v1.BlockService/Get",
    "/autoglm.v1.InferenceService/Generate",
    "/autoglm.v1.InferenceService/Complete",
    "/v1/sync",
    "/v1/generate",
    "/",
    "/metrics",
    "/nowhere",
]


def device(service: Service, tenant: str, *, seed: int = 1) -> tuple[Records, RemoteHub]:
    sealer = Sealer(ROOT_KEY)
    clock = HybridClock(lambda: time.time_ns() // 1_000_000)
    records = Records(MemoryStore(), sealer.index_key(), clock=clock, rng=random.Random(seed))
    token = make_token(service.secret, tenant, days=1)
    return records, RemoteHub(Channel(Endpoint(address=service.address, token=token)), sealer)


def post(service: Service, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(service.address + path, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read()


def test_two_devices_agree_through_the_service(service):
    (first, first_hub), (second, second_hub) = (device(service, "pair", seed=n) for n in (1, 2))
    first.put("note", "title", "hello")
    first.write_text("note", "body", "one two")
    synchronise(first, first_hub)
    synchronise(second, second_hub)
    second.write_text("note", "body", "one two three")
    first.increment("note", "count", 2)
    for records, hub in ((second, second_hub), (first, first_hub), (second, second_hub)):
        synchronise(records, hub)
    expected = {"title": "hello", "body": "one two three", "count": 2}
    assert first.get("note") == second.get("note") == expected
    first_hub.close()
    second_hub.close()


def test_tenants_are_apart(service):
    first, first_hub = device(service, "alice")
    other, other_hub = device(service, "bob", seed=2)
    first.put("note", "title", "mine")
    synchronise(first, first_hub)
    synchronise(other, other_hub)
    assert other.names() == []


def test_blob_goes_through_the_service(service, tmp_path):
    sealer = BlockSealer(Sealer(ROOT_KEY))
    token = make_token(service.secret, "blobs", days=1)
    blocks = RemoteBlocks(Channel(Endpoint(address=service.address, token=token)))
    path = tmp_path / "blob"
    path.write_bytes(random.Random(1).randbytes(300_000))
    manifest = upload(path, sealer, blocks)
    download(manifest, tmp_path / "copy", sealer, blocks)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    other = make_token(service.secret, "others", days=1)
    others = RemoteBlocks(Channel(Endpoint(address=service.address, token=other)))
    assert others.missing(manifest.names) == set(manifest.names)
    with pytest.raises(SyncError, match="no such block"):
        others.get(manifest.names[0])


def test_round_as_json(service):
    token = make_token(service.secret, "json", days=1)
    body = json.dumps({"hello": {"protocol": PROTOCOL, "enrolment": "7"}}).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    status, answer = post(service, "/v1/sync", body, **headers)
    assert (status, json.loads(answer)) == (200, {"actor": "1"})


def test_stream_by_a_grpc_client(service):
    token = make_token(service.secret, "grpc", days=1)
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        exchange = channel.stream_stream(
            "/autoglm.v1.SyncService/Exchange",
            request_serializer=SyncRequest.SerializeToString,
            response_deserializer=SyncResponse.FromString,
        )
        requests = iter([SyncRequest(hello=Hello(protocol=PROTOCOL, enrolment=9))])
        metadata = (("authorization", f"Bearer {token}"),)
        answers = list(exchange(requests, metadata=metadata, timeout=10))
    assert [answer.actor for answer in answers] == [1]


@pytest.mark.parametrize("path", PATHS)
def test_every_path_wants_a_token(service, path):
    assert post(service, path, b"{}", **{"content-type": "application/json"})[0] == 401


def forged(service: Service) -> dict[str, str]:
    header, claims, _ = make_token(b"x" * 32, "alice", days=1).split(".")
    return {
        "another key": make_token(b"x" * 32, "alice", days=1),
        "no signature": f"{header}.{claims}.",
        "no algorithm": "eyJhbGciOiJub25lIn0." + claims + ".",
        "expired": make_token(service.secret, "alice", days=1e-9),
        "empty": "",
    }


KINDS = ["another key", "no signature", "no algorithm", "expired", "empty"]


@pytest.mark.parametrize("kind", KINDS)
def test_token_that_is_not_ours_is_refused(service, kind):
    headers = {"authorization": f"Bearer {forged(service)[kind]}"}
    assert post(service, "/v1/sync", b"{}", **headers)[0] == 401


def test_tenant_header_of_a_client_counts_for_nothing(service):
    assert post(service, "/v1/sync", b"{}", **{"x-autoglm-tenant": "alice"})[0] == 401
    token = make_token(service.secret, "mallory", days=1)
    headers = {
        "authorization": f"Bearer {token}",
        "x-autoglm-tenant": "alice",
        "content-type": "application/json",
    }
    body = json.dumps({"hello": {"protocol": PROTOCOL, "actor": "1"}}).encode()
    status, answer = post(service, "/v1/sync", body, **headers)
    assert (status, json.loads(answer)["code"]) == (400, "failed_precondition")


def test_broken_message_is_a_sync_error_at_the_device(service):
    records, hub = device(service, "broken")
    synchronise(records, hub)
    records.device._state = records.device.state.__class__(actor=77, acked=0)
    with pytest.raises(SyncError, match="does not know device 77"):
        hub.serve(records.request())


def test_wrong_token_is_no_reason_to_try_again(service):
    endpoint = Endpoint(address=service.address, token="wrong")
    records, _ = device(service, "any")
    with pytest.raises(CloudError) as caught:
        RemoteHub(Channel(endpoint), Sealer(ROOT_KEY)).serve(records.request())
    assert not isinstance(caught.value, UnreachableError)


def test_token_is_not_sent_in_the_clear_to_another_machine():
    with pytest.raises(UsageError, match="https"):
        Endpoint(address="http://example.org", token="t")


def test_log_of_the_service_holds_paths_and_times_and_no_names(service):
    records, hub = device(service, "tenant-canary")
    records.put("record-canary", "field-canary", "value-canary")
    synchronise(records, hub)
    hub.close()
    log = service.log.read_text(encoding="utf-8")
    assert "canary" not in log
    assert "/autoglm.v1.SyncService" in log or "/healthz" in log


def test_service_stops_in_order_while_a_stream_is_open(postgres, secret_file):
    running = Service(postgres, secret_file, "--no-model")
    records, hub = device(running, "drain")
    records.put("n", "title", "t")
    synchronise(records, hub)
    start = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - start < 10
    records.put("n", "title", "later")
    with pytest.raises(CloudError):
        hub.serve(records.request())
    assert records.get("n") == {"title": "later"}


def test_no_acknowledged_write_is_lost_when_the_database_crashes_under_load(secret_file, scale):
    server = Postgres()
    server.start()
    running = None
    try:
        asyncio.run(migrate(server.url(OWNER)))
        running = Service(server, secret_file, "--no-model")
        acknowledged: dict[int, int] = {}
        stopping = threading.Event()

        def write(index: int) -> None:
            records, hub = device(running, "load", seed=index)
            count = 0
            while not stopping.is_set():
                records.put(f"n{index}", f"f{count % 7}", count)
                try:
                    synchronise(records, hub, sleep=lambda _: stopping.wait(0.05))
                except CloudError:
                    continue
                acknowledged[index] = count
                count += 1
            hub.close()

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3 * scale):
            stopping.wait(1.0)
            server.kill()
            stopping.wait(0.5)
            server.start()
        stopping.wait(2.0)
        stopping.set()
        for thread in threads:
            thread.join()
        reader, hub = device(running, "load", seed=99)
        synchronise(reader, hub)
        hub.close()
        assert len(acknowledged) == 4
        for index, last in acknowledged.items():
            fields = reader.get(f"n{index}")
            for count in range(max(0, last - 6), last + 1):
                assert fields[f"f{count % 7}"] >= count
    finally:
        if running is not None:
            running.stop()
        server.remove()
