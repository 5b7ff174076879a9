"""Latency that the cloud service adds to a token: many streams on an engine without a model.

The engine says the time instead of words, so a reader knows how long each took on its way. Reader
and service are two processes on this machine. Usage: cloud_streams.py [--streams N] [--tokens N]
"""

import argparse
import asyncio
import multiprocessing
import secrets
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from connectrpc.client import ConnectClient
from connectrpc.compat import google_protobuf_binary_codec
from figure import Figure, table
from postgres import OWNER, Postgres
from pyqwest import Client, HTTPTransport, HTTPVersion
from ready import await_ready

from autoglm.cloud.auth import make_token
from autoglm.cloud.database import migrate
from autoglm.cloud.run import run
from autoglm.cloud.settings import CloudSettings
from autoglm.protocol.inference import encode_request
from autoglm.protocol.rpc import GENERATE
from autoglm.types import Chunk, Message, Request, Usage

PORT = 18444
PAUSE_S = 0.1


class TimeTeller:
    """An engine whose words are the time at which they were said."""

    def stream(self, request: Request) -> Iterator[Chunk]:
        """One time a token."""
        count = request.max_tokens or 1
        for n in range(count):
            time.sleep(PAUSE_S)
            yield Chunk(str(time.monotonic_ns()), (n,))
        yield Chunk("", finish_reason="length", usage=Usage(1, count))


def connected() -> ConnectClient:
    """A connection of its own, as every device has."""
    transport = HTTPTransport(http_version=HTTPVersion.HTTP2, enable_otel=False)
    return ConnectClient(
        f"http://127.0.0.1:{PORT}",
        codec=google_protobuf_binary_codec(),
        accept_compression=(),
        send_compression=None,
        http_client=Client(transport),
    )


async def read(token: str, streams: int, tokens: int, connections: int) -> list[float]:
    """The milliseconds every token took from the engine to here."""
    clients = [connected() for _ in range(connections)]
    request = Request(messages=(Message("user", "what time is it?"),), max_tokens=tokens)

    async def one(number: int) -> list[float]:
        found: list[float] = []
        async for message in clients[number % connections].execute_server_stream(
            request=encode_request(request, secrets.token_urlsafe(24), 0),
            method=GENERATE,
            headers={"authorization": f"Bearer {token}"},
        ):
            if message.text:
                found.append((time.monotonic_ns() - int(message.text)) / 1e6)
        return found

    answers = await asyncio.gather(*(one(number) for number in range(streams)))
    return [latency for answer in answers for latency in answer]


def serve(settings: CloudSettings) -> None:
    """The service, in a process of its own."""
    run(settings, TimeTeller(), "time", lambda _: None)


def measure(streams: int, tokens: int, connections: int) -> list[float]:
    """The latencies, sorted, of a service of its own."""
    postgres = Postgres()
    process = None
    try:
        postgres.start()
        asyncio.run(migrate(postgres.url(OWNER)))
        secret_file = Path(postgres.directory, "secret")
        secret_file.write_text(secrets.token_hex(32), encoding="utf-8")
        settings = CloudSettings(
            database=postgres.url(),
            secret_file=str(secret_file),
            port=PORT,
            slots=streams,
            drain_s=1.0,
        )
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(settings,))
        process.start()
        await_ready(PORT)
        token = make_token(settings.secret(), "bench", days=1)
        return sorted(asyncio.run(read(token, streams, tokens, connections)))
    finally:
        if process is not None:
            process.terminate()
            process.join(30)
        postgres.remove()


def figures(streams: int = 200, tokens: int = 100) -> Iterable[Figure]:
    """The latency on a connection for each stream, and on one for all."""
    for connections in (streams, 1):
        latencies = measure(streams, tokens, connections)
        expected = streams * tokens
        p95 = latencies[int(0.95 * len(latencies))]
        name = f"{streams} streams, {connections} connections, a token each {PAUSE_S * 1e3:.0f} ms"
        value = (
            f"added latency P95 {p95:.1f} ms, median {statistics.median(latencies):.1f}, "
            f"{expected - len(latencies)} of {expected:,} tokens missing"
        )
        yield Figure(name, value, "15 ms", p95 <= 15 and len(latencies) == expected)


def main() -> int:
    """Print the latencies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=100)
    args = parser.parse_args()
    found = list(figures(args.streams, args.tokens))
    sys.stdout.write(table(found) + "\n")
    return int(any(figure.is_met is False for figure in found))


if __name__ == "__main__":
    sys.exit(main())
