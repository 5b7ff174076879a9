"""HTTP on a socket: uvicorn over llhttp, which takes a third of the time of h11.

Two things are stricter than in uvicorn. A target must be a path: a whole address would name a host
that nobody checks. Heads and messages are bounded, because llhttp collects whatever comes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from autoglm.serve.security import MAX_BODY_BYTES

MAX_HEAD_BYTES = 64 * 1024
# Of what is sent in chunks also their lengths and trailers count.
MAX_MESSAGE_BYTES = 2 * MAX_BODY_BYTES


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._is_in_head = True
        self._num_bytes = 0

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._is_in_head = True
        self._num_bytes = 0

    def on_headers_complete(self) -> None:
        """What is raised here becomes a response with status 400."""
        self._is_in_head = False
        if not self.url.startswith(b"/"):
            message = "the target of a request must be a path"
            raise ValueError(message)
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it has become too much."""
        super().data_received(data)
        self._num_bytes += len(data)
        most = MAX_HEAD_BYTES if self._is_in_head else MAX_MESSAGE_BYTES
        if self._num_bytes > most and not self.transport.is_closing():
            self.send_400_response("The request is too large.")
