"""HTTP/2 connections of a service that ends: no stream breaks another, none is lost unheard.

Hypercorn 0.18 raises when data comes for a stream that it has refused or already answered, which
ends the connection with all its other streams, and while it stops the whole server. It resets what
it refuses without saying that nothing was done, and closes idle connections without a word.
"""

from __future__ import annotations

from typing import Any, cast

import hypercorn.protocol
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived
from hypercorn.events import Closed
from hypercorn.events import Event as ServerEvent
from hypercorn.protocol.h2 import H2Protocol


class OrderlyH2(H2Protocol):
    """Hypercorn's connection; what a client may repeat is refused in a way that tells it so."""

    _has_said_goodbye = False

    async def handle(self, event: ServerEvent) -> None:
        """Take what came; an idle connection that the server ends gets a GOAWAY first."""
        is_ending = isinstance(event, Closed) and self.context.terminated.is_set()
        if is_ending and not (self.closed or self._has_said_goodbye):
            self._has_said_goodbye = True
            self.connection.close_connection()
            await self._flush()
        await super().handle(event)

    async def _handle_events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, RequestReceived) and self.context.terminated.is_set():
                self.connection.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                await self._flush()
            elif isinstance(event, DataReceived) and event.stream_id not in self.streams:
                # The connection's window counts what nobody reads, too.
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
                await self._flush()
            else:
                await super()._handle_events([event])


def use_orderly_connections() -> None:
    """Let Hypercorn make these connections; it offers no other way to choose them."""
    cast("Any", hypercorn.protocol).H2Protocol = OrderlyH2
