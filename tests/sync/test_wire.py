"""Messages carry rounds unchanged, in few bytes; broken ones are typed errors."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sync.conftest import sync

from autoglm.errors import SyncError
from autoglm.protocol.v1.sync_pb2 import SyncRequest, SyncResponse, Versions
from autoglm.sync.clock import HybridClock
from autoglm.sync.hub import MemoryHub
from autoglm.sync.link import DeviceLink, HubLink
from autoglm.sync.messages import Push, Request, Response
from autoglm.sync.records import Records
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore
from autoglm.sync.version import Version
from autoglm.sync.wire import Direction, decode_versions, encode_versions

KEY = bytes(range(32))
NUMBERS = st.integers(1, 2**62)
CONTEXTS = st.dictionaries(st.integers(1, 50), NUMBERS, max_size=4).map(
    lambda context: tuple(sorted(context.items()))
)
VERSIONS = st.builds(
    Version,
    dot=st.tuples(st.integers(1, 5), NUMBERS),
    cell=st.binary(min_size=10, max_size=10),
    context=CONTEXTS,
    stamp=NUMBERS,
    payload=st.binary(min_size=24, max_size=60),
    is_tombstone=st.booleans(),
    needs=st.none() | st.tuples(NUMBERS, NUMBERS),
    is_shared=st.booleans(),
)


class Wire:
    """A device's connection to a hub: both links, a sealer, and every message's size."""

    def __init__(self, hub, key=KEY):
        self.hub, self.sealer = hub, Sealer(key)
        self.sent, self.received = [], []
        self.reconnect()

    def reconnect(self):
        self.device_link, self.hub_link = DeviceLink(), HubLink()

    def serve(self, request, now_ms):
        sealed = request
        if request.push is not None:
            versions = self.sealer.seal_all(request.push.versions)
            sealed = replace(request, push=replace(request.push, versions=versions))
        data = self.device_link.encode(sealed).SerializeToString()
        self.sent.append(len(data))
        arrived = self.hub_link.decode(SyncRequest.FromString(data))
        assert replace(arrived, round=request.round, enrolment=request.enrolment) == sealed
        answer = self.hub.serve(arrived, now_ms)
        data = self.hub_link.encode(answer, arrived).SerializeToString()
        self.received.append(len(data))
        response = self.device_link.decode(SyncResponse.FromString(data), request)
        return replace(response, versions=self.sealer.open_all(response.versions))


def act(records, rng, n):
    """One write of any kind."""
    record, kind = rng.choice("ab"), rng.randrange(6)
    match kind:
        case 0:
            records.put(record, "title", f"t{n}")
        case 1:
            records.add(record, "tags", str(n % 5))
        case 2:
            records.remove(record, "tags", str(n % 5))
        case 3:
            records.increment(record, "count")
        case 4:
            records.write_text(record, "body", f"{n} " * (n % 60))
        case _:
            records.erase(record)


@given(st.lists(VERSIONS, min_size=1, max_size=8))
def test_versions_come_back_from_their_columns(versions):
    out, back = Direction(), Direction()
    for _ in range(2):
        message = encode_versions(versions, (3, 7), out)
        assert decode_versions(message, (3, 7), back) == tuple(versions)
    assert out == back


COLUMN = st.lists(st.integers(0, 40) | st.integers(0, 2**32 - 1), max_size=6)


@given(
    st.fixed_dictionaries(
        {
            "cells": st.binary(max_size=40),
            "actors": COLUMN,
            "counters": COLUMN,
            "stamps": COLUMN,
            "contexts": COLUMN,
            "sizes": st.lists(st.integers(14, 20), max_size=3),
            "payloads": st.binary(max_size=70),
            "tombstones": COLUMN,
            "needs": COLUMN,
            "salts": st.binary(max_size=17),
            "salt_of": COLUMN,
            "shared": COLUMN,
        }
    )
)
def test_any_columns_are_versions_or_a_typed_error(columns):
    try:
        versions = decode_versions(Versions(**columns), (1, 0), Direction())
        assert b"".join(version.cell for version in versions) == columns["cells"]
    except SyncError as err:
        assert "malformed" in str(err)


def test_devices_agree_over_streams_and_single_rounds(hub, make_records):
    devices = [make_records() for _ in range(3)]
    wires = [Wire(hub) for _ in devices]
    rng = random.Random(3)
    for n in range(150):
        pick = rng.randrange(3)
        records, wire = devices[pick], wires[pick]
        act(records, rng, n)
        if rng.random() < 0.2:
            wire.reconnect()
        if rng.random() < 0.7:
            records.receive(wire.serve(records.request(), 0))
    for _ in range(2):
        for records, wire in zip(devices, wires, strict=True):
            while not records.receive(wire.serve(records.request(), 0)).is_idle:
                pass
    views = [{name: each.get(name) for name in each.names()} for each in devices]
    assert views[0] == views[1] == views[2]


def test_edit_of_one_field_takes_at_most_87_bytes_with_its_envelope(hub, make_records):
    records = make_records()
    wire = Wire(hub)
    values = random.Random(1)
    for n in range(200):
        records.put(f"note-{n % 20}", "title", f"title {values.randrange(10**6)}")
        records.receive(wire.serve(records.request(), 0))
    envelope = 5
    requests = wire.sent[20:]
    assert sum(requests) / len(requests) + envelope <= 87
    assert max(wire.received[20:]) + envelope <= 10


def test_hub_never_holds_what_was_written(hub, make_records):
    records, wire = make_records(), Wire(hub)
    records.put("Geheimnis", "Feld", "Wert-4711")
    records.write_text("Geheimnis", "body", "lange " * 100)
    sync(wire, records)
    stored = repr(hub.live()).encode() + b"".join(v.payload for v in hub.live().values())
    for word in (b"Geheimnis", b"Feld", b"4711", b"lange"):
        assert word not in stored


@pytest.mark.parametrize(
    "change",
    [
        {"cell": b"0123456789"},
        {"stamp": 1},
        {"context": ((1, 1),)},
        {"is_tombstone": True},
        {"needs": (1, 1)},
        {"dot": (1, 8)},
        {"dot": (2, 7)},
    ],
)
def test_payload_moved_to_another_version_cannot_be_opened(change):
    sealer = Sealer(KEY)
    version = Version((1, 7), b"cell-name.", (), 99, b"text")
    sealed = sealer.seal(version)
    assert sealer.open(sealed) == version
    assert Sealer(KEY).open(sealed) == version
    with pytest.raises(SyncError):
        sealer.open(replace(sealed, **change))
    with pytest.raises(SyncError):
        Sealer(bytes(32)).open(sealed)


@pytest.fixture
def group():
    """Twenty versions that were sealed together, and what opens them."""
    sealer = Sealer(KEY)
    records = Records(
        MemoryStore(),
        sealer.index_key(),
        clock=HybridClock(lambda: 1_700_000_000_000),
        rng=random.Random(1),
    )
    hub = MemoryHub()
    sync(hub, records)
    for n in range(20):
        records.put(f"note-{n}", "title", f"title {n}")
    push = records.request().push
    return sealer, push.versions, sealer.seal_all(push.versions)


def test_versions_sealed_together_open_one_by_one(group):
    sealer, versions, sealed = group
    assert len({version.payload for version in sealed}) == 1
    assert Sealer(KEY).open_all(sealed) == versions
    assert [sealer.open_all([each])[0] for each in sealed] == list(versions)


@pytest.mark.parametrize(
    "change",
    [
        {"cell": b"0123456789"},
        {"stamp": 1},
        {"context": ((1, 1),)},
        {"is_tombstone": True},
        {"is_shared": False},
        {"needs": (1, 1)},
        {"dot": (1, 3)},
        {"dot": (1, 99)},
        {"dot": (2, 2)},
        {"payload": bytes(80)},
        {"payload": b""},
    ],
)
def test_version_of_a_group_that_the_hub_changed_is_refused(group, change):
    sealer, _, sealed = group
    with pytest.raises(SyncError):
        sealer.open_all([replace(sealed[1], **change)])


def test_versions_of_different_groups_cannot_be_exchanged(group):
    sealer, versions, sealed = group
    moved = [replace(v, dot=(v.dot[0], v.dot[1] + 100)) for v in versions]
    other = sealer.seal_all(moved)
    with pytest.raises(SyncError):
        sealer.open_all([replace(sealed[0], payload=other[0].payload)])
    with pytest.raises(SyncError):
        Sealer(bytes(32)).open_all(sealed)


def test_backlog_takes_less_than_half_the_bytes_of_single_edits(group):
    _, versions, sealed = group
    alone = [Sealer(KEY).seal(version) for version in versions]
    sizes = [encode_versions(each, (1, 0), Direction()).ByteSize() for each in (sealed, alone)]
    assert sizes[0] < sizes[1] / 2


def test_nonce_never_repeats_under_a_key():
    sealers = [Sealer(KEY) for _ in range(2)]
    version = Version((1, 7), b"c", (), 9, b"same")
    inlined = replace(version, payload=b"other", needs=(1, 6))
    sealed = {s.seal(v).payload[8:] for s in sealers for v in (version, inlined)}
    assert len(sealed) == 4


@pytest.mark.parametrize(
    "field", ["cells", "sizes", "contexts", "salts", "needs", "actors", "shared"]
)
def test_message_with_a_broken_column_is_refused(field):
    version = Version((1, 1), b"cell", ((1, 0),), 5, b"s" * 8 + b"t" * 16)
    message = encode_versions([version, version], (1, 0), Direction())
    column = getattr(message, field)
    if isinstance(column, bytes):
        setattr(message, field, column + b"x")
    else:
        column.extend([9, 9, 9, 9])
    with pytest.raises(SyncError, match="malformed"):
        decode_versions(message, (1, 0), Direction())


def test_push_in_the_name_of_another_device_is_refused():
    version = Version((2, 1), b"cell", (), 5, b"s" * 8 + b"t" * 16)
    request = Request(1, 1, 0, 0, 0, {}, Push(7, 1, (version,)))
    with pytest.raises(SyncError, match="another device"):
        HubLink().decode(DeviceLink().encode(request))


def test_device_of_another_protocol_is_told_so():
    message = DeviceLink().encode(Request(1, 1, 0, 0, 0, {}))
    message.hello.protocol = 99
    with pytest.raises(SyncError, match="protocol 99"):
        HubLink().decode(message)


def test_response_after_one_that_was_not_taken_in_still_fits():
    device, hub = DeviceLink(), HubLink()
    request = Request(1, 1, 0, 0, 4, {1: 4})
    for round_number in (1, 2):
        asked = replace(request, round=round_number)
        assert hub.decode(device.encode(asked)).vector == {1: 4}
        answer = Response(0, 1, 4, 0, {1: 4, 2: 9})
        heard = device.decode(hub.encode(answer, asked), asked)
        assert heard == replace(answer, round=round_number)
