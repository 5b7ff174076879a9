"""Bytes and time of synchronisation without a network: single edits, a backlog, typing a text.

The typing trace is made here in the shape of the B4 trace of crdt-benchmarks (182,315 insertions
and 77,463 removals, 104,852 characters at the end); yjs publishes 159,929 bytes for it, 0.62 an
operation.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import replace

from figure import Figure, table

from autoglm.protocol.v1.sync_pb2 import SyncRequest, SyncResponse
from autoglm.sync.clock import HybridClock
from autoglm.sync.hub import MemoryHub
from autoglm.sync.link import DeviceLink, HubLink
from autoglm.sync.messages import Request, Response
from autoglm.sync.records import Records, Value
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore

ENVELOPE = 5
ROOT_KEY = bytes(range(32))
VOCABULARY = 2000


class Wire:
    """A stream between a device and a hub, with the size of every message."""

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub
        self.sealer = Sealer(ROOT_KEY)
        self.device_link, self.hub_link = DeviceLink(), HubLink()
        self.sent: list[int] = []
        self.received: list[int] = []

    def serve(self, request: Request) -> Response:
        """One round as bytes."""
        if request.push is not None:
            versions = self.sealer.seal_all(request.push.versions)
            request = replace(request, push=replace(request.push, versions=versions))
        data = self.device_link.encode(request).SerializeToString()
        self.sent.append(len(data) + ENVELOPE)
        arrived = self.hub_link.decode(SyncRequest.FromString(data))
        answer = self.hub_link.encode(self.hub.serve(arrived, 0), arrived).SerializeToString()
        self.received.append(len(answer) + ENVELOPE)
        response = self.device_link.decode(SyncResponse.FromString(answer), request)
        return replace(response, versions=self.sealer.open_all(response.versions))


def device(seed: int) -> Records:
    """A new device in memory."""
    clock = HybridClock(lambda: time.time_ns() // 1_000_000)
    return Records(
        MemoryStore(), Sealer(ROOT_KEY).index_key(), clock=clock, rng=random.Random(seed)
    )


def drain(records: Records, wire: Wire) -> None:
    """Rounds until there is nothing to say."""
    while not records.receive(wire.serve(records.request())).is_idle:
        pass


def single_edits(rng: random.Random) -> Iterable[Figure]:
    """The mean message of an edit of one field: a title, a number, a date, a flag."""
    records, wire = device(1), Wire(MemoryHub())
    drain(records, wire)
    for n in range(1000):
        record = f"note-{rng.randrange(200)}"
        options: list[tuple[str, Value]] = [
            ("title", f"Title {rng.randrange(10**6)}"),
            ("position", rng.randrange(1000)),
            ("due", f"2026-11-{rng.randrange(1, 29):02}"),
            ("done", n % 2 == 0),
        ]
        field, value = rng.choice(options)
        records.put(record, field, value)
        records.receive(wire.serve(records.request()))
    pushes, answers = wire.sent[-1000:], wire.received[-1000:]
    request, response = sum(pushes) / 1000, sum(answers) / 1000
    value = f"request {request:.1f} bytes, response {response:.1f}"
    yield Figure(
        f"edit of one field, with an envelope of {ENVELOPE}", value, "87 bytes", request <= 87
    )


def backlog(count: int) -> Iterable[Figure]:
    """What a device sends after it wrote many different fields offline."""
    hub = MemoryHub()
    records, wire = device(2), Wire(hub)
    for n in range(count):
        records.put(f"note-{n // 4}", f"field{n % 4}", f"value {n}")
    start = time.perf_counter()
    drain(records, wire)
    sent_s = time.perf_counter() - start
    other, other_wire = device(3), Wire(hub)
    start = time.perf_counter()
    drain(other, other_wire)
    read_s = time.perf_counter() - start
    size = sum(wire.sent) / count
    value = f"{size:.1f} bytes an edit, {sent_s:.2f} s to send and {read_s:.2f} s to read"
    yield Figure(f"{count:,} offline edits without a network", value, "", None)


def typing(rng: random.Random, operations: int) -> tuple[str, list[str]]:
    """A text that grows by typing words at a wandering cursor and by removing characters."""
    letters = "etaoinshrdlucmfw"
    words = ["".join(rng.choices(letters, k=rng.randrange(2, 9))) for _ in range(VOCABULARY)]
    text: list[str] = []
    states: list[str] = []
    cursor, pending = 0, ""
    for _ in range(operations):
        if rng.random() < 0.01:
            cursor = rng.randrange(len(text) + 1)
        if cursor and rng.random() < 0.3:
            cursor -= 1
            del text[cursor]
        else:
            pending = pending or rng.choice(words) + " "
            text.insert(cursor, pending[0])
            cursor, pending = cursor + 1, pending[1:]
        if len(states) < 2000:
            states.append("".join(text))
    return "".join(text), states


def text_edits(rng: random.Random) -> Iterable[Figure]:
    """Bytes per operation of a typed text, sent at the end and sent key by key."""
    operations = 259_778
    final, states = typing(rng, operations)
    records, wire = device(4), Wire(MemoryHub())
    records.write_text("doc", "body", final)
    drain(records, wire)
    total = sum(wire.sent)
    value = f"{total / operations:.3f} bytes an operation (yjs publishes 0.62 for B4)"
    yield Figure(f"text of {operations:,} operations, sent at the end", value, "", None)
    records, wire = device(5), Wire(MemoryHub())
    drain(records, wire)
    for state in states:
        records.write_text("doc", "body", state)
        records.receive(wire.serve(records.request()))
    sent = wire.sent[-len(states) :]
    mean = sum(sent) / len(sent)
    yield Figure("text, a round for every key", f"{mean:.1f} bytes a request", "", None)


def figures(edits: int = 10_000) -> Iterable[Figure]:
    """Every figure of this file."""
    rng = random.Random(1)
    yield from single_edits(rng)
    yield from backlog(edits)
    yield from text_edits(rng)


def main() -> int:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=10_000, help="offline edits of the backlog")
    args = parser.parse_args()
    sys.stdout.write(table(list(figures(args.edits))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
