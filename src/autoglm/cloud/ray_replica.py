"""What a Ray Serve deployment runs: one engine in a process of its own, asked over protobuf."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from autoglm.config import Value, load_settings
from autoglm.protocol.inference import decode_request, encode_chunk
from autoglm.protocol.v1.inference_pb2 import GenerateRequest
from autoglm.runtime import Runtime

APP = "autoglm"
OFFLINE: Mapping[str, Value] = {"offline": True, "cache_mib": 0}


class Replica:
    """The model of one process. Ray calls it from one event loop."""

    def __init__(self, flags: Mapping[str, Value], slots: int) -> None:
        """Load the model; `slots` answers are written at once."""
        self._runtime = Runtime(load_settings({**flags, **OFFLINE}))
        self._runtime.load()
        self._threads = ThreadPoolExecutor(slots)

    async def stream(self, data: bytes) -> AsyncIterator[bytes]:
        """The answer to a request, in pieces. Raises what the engine raises."""
        request = decode_request(GenerateRequest.FromString(data))
        loop = asyncio.get_running_loop()
        chunks = self._runtime.stream(request)
        position = 0
        try:
            while True:
                chunk = await loop.run_in_executor(self._threads, next, chunks, None)
                if chunk is None:
                    return
                position += len(chunk.token_ids)
                yield encode_chunk(chunk, "", position).SerializeToString()
        finally:
            # Nobody reads any more, or the answer has ended and this does nothing.
            request.cancellation.cancel()
