"""An engine on the other side of a connection; an answer that breaks off is resumed where it was.

Needs the extra `sync`. What is sent is the request as it is: rules about what may leave the device
belong to whoever builds this engine.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from autoglm.engine.breaker import RetryBudget
from autoglm.errors import CloudError
from autoglm.protocol.channel import Channel, UnreachableError, translated
from autoglm.protocol.inference import decode_chunk, encode_request
from autoglm.protocol.rpc import GENERATE
from autoglm.protocol.v1.inference_pb2 import GenerateRequest, GenerateResponse
from autoglm.types import Chunk, Request, Usage

TIMEOUT_S = 60.0
# A failure before the first token is tried again only if it came this fast.
FAST_S = 0.5


class CloudEngine:
    """Answers by the cloud's model. Safe to use from several threads."""

    def __init__(
        self,
        channel: Channel,
        *,
        timeout_s: float = TIMEOUT_S,
        budget: RetryBudget | None = None,
    ) -> None:
        """`timeout_s` bounds a whole answer; the service stops working on it then."""
        self._channel = channel
        self._timeout_s = timeout_s
        self._budget = budget or RetryBudget()

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield the answer in pieces; only the last has a finish_reason.

        Raises CloudError, and InvalidRequestError for a request the wire does not carry.
        """
        self._budget.earn()
        start = time.monotonic()
        message = encode_request(request, secrets.token_urlsafe(24), 0)
        while True:
            try:
                yield from self._attempt(message, request, start + self._timeout_s)
            except UnreachableError:
                self._channel.renew()
                is_worth_it = message.offset > 0 or time.monotonic() - start < FAST_S
                if not is_worth_it or not self._budget.take():
                    raise
            else:
                return

    def _attempt(
        self, message: GenerateRequest, request: Request, deadline: float
    ) -> Iterator[Chunk]:
        """One call; moves the message's offset on, so that the next call goes on after it."""
        for response in self._responses(message, deadline):
            if request.cancellation.is_cancelled:
                usage = Usage(0, message.offset)
                yield Chunk("", finish_reason="cancelled", usage=usage)
                return
            chunk = decode_chunk(response)
            message.offset = response.position
            yield chunk
            if chunk.finish_reason is not None:
                return
        text = "the cloud ended the answer in the middle"
        raise UnreachableError(text)

    def _responses(self, message: GenerateRequest, deadline: float) -> Iterator[GenerateResponse]:
        left_ms = int((deadline - time.monotonic()) * 1e3)
        if left_ms <= 0:
            text = f"the cloud took longer than {self._timeout_s:g} s"
            raise CloudError(text)
        with translated():
            yield from self._channel.client.execute_server_stream(
                request=message,
                method=GENERATE,
                headers=self._channel.headers,
                timeout_ms=left_ms,
            )
