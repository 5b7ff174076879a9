"""A hub on the other side of a connection: rounds over one stream, payloads sealed.

A round that fails can be repeated as it is; `synchronise` does, a few times.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from autoglm.errors import AutoGLMError
from autoglm.protocol.channel import Channel, UnreachableError, translated
from autoglm.protocol.rpc import EXCHANGE, GET, MISSING, PUT
from autoglm.protocol.v1.blocks_pb2 import Block, BlockNames
from autoglm.protocol.v1.sync_pb2 import SyncRequest, SyncResponse
from autoglm.sync.link import DeviceLink
from autoglm.sync.messages import Request, Response
from autoglm.sync.records import Records
from autoglm.sync.seal import Sealer

ATTEMPTS = 4
FIRST_WAIT_S = 0.2


class RemoteHub:
    """The hub as a device sees it. One caller at a time."""

    def __init__(self, channel: Channel, sealer: Sealer) -> None:
        self._channel = channel
        self._sealer = sealer
        self._link = DeviceLink()
        self._requests: queue.SimpleQueue[SyncRequest | None] | None = None
        self._responses: Iterator[SyncResponse] = iter(())

    def serve(self, request: Request) -> Response:
        """One round. Raises SyncError, UnreachableError or another CloudError."""
        if request.push is not None:
            versions = self._sealer.seal_all(request.push.versions)
            request = replace(request, push=replace(request.push, versions=versions))
        try:
            with translated():
                message = self._exchange(request)
            response = self._link.decode(message, request)
        except UnreachableError:
            self._channel.renew()
            self.close()
            raise
        except AutoGLMError:
            self.close()
            raise
        return replace(response, versions=self._sealer.open_all(response.versions))

    def _exchange(self, request: Request) -> SyncResponse:
        if self._requests is None:
            self._requests, self._link = queue.SimpleQueue(), DeviceLink()
            self._responses = self._channel.client.execute_bidi_stream(
                request=iter(self._requests.get, None),
                method=EXCHANGE,
                headers=self._channel.headers,
            )
        self._requests.put(self._link.encode(request))
        for message in self._responses:
            return message
        text = "the hub ended the stream"
        raise UnreachableError(text)

    def close(self) -> None:
        """End the stream; the next round begins another."""
        if self._requests is not None:
            self._requests.put(None)
            self._requests = None


def synchronise(
    records: Records, hub: RemoteHub, *, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Rounds until there is nothing to say; returns how many. Raises what a round raises.

    A round that cannot reach the hub is repeated up to ATTEMPTS times, with growing waits.
    """
    num_rounds = num_failures = 0
    while True:
        try:
            received = records.receive(hub.serve(records.request()))
        except UnreachableError:
            num_failures += 1
            if num_failures >= ATTEMPTS:
                raise
            sleep(FIRST_WAIT_S * 2**num_failures)
            continue
        num_rounds, num_failures = num_rounds + 1, 0
        if received.is_idle:
            return num_rounds


class RemoteBlocks:
    """The hub's blocks as a device sees them. Safe to use from several threads."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def missing(self, names: Sequence[bytes]) -> set[bytes]:
        """Those of the names that are not stored."""
        with translated():
            found = self._channel.client.execute_unary(
                request=BlockNames(names=names), method=MISSING, headers=self._channel.headers
            )
        return set(found.names)

    def put(self, name: bytes, data: bytes) -> None:
        """Store a block."""
        with translated():
            self._channel.client.execute_unary(
                request=Block(name=name, data=data), method=PUT, headers=self._channel.headers
            )

    def get(self, name: bytes) -> bytes:
        """A block."""
        with translated():
            found = self._channel.client.execute_unary(
                request=BlockNames(names=[name]), method=GET, headers=self._channel.headers
            )
        return found.data
