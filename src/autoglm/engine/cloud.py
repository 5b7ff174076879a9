"""An engine on the other side of a connection; an answer that breaks off is resumed where it was.

Needs the extra `sync`. Every request passes the privacy boundary; what it replaced is put back into
the answer. What may not leave is a PrivacyError, and nothing is sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

from autoglm.engine.breaker import RetryBudget
from autoglm.errors import CloudError, InvalidRequestError
from autoglm.privacy.boundary import Boundary, Departure, Value
from autoglm.privacy.placeholders import Restorer
from autoglm.protocol.channel import Channel, UnreachableError, translated
from autoglm.protocol.inference import decode_chunk, encode_request
from autoglm.protocol.rpc import GENERATE
from autoglm.protocol.v1.inference_pb2 import GenerateRequest, GenerateResponse
from autoglm.types import Chunk, Message, Request, Usage

# What the policy calls these messages.
MESSAGE = "inference"
TIMEOUT_S = 60.0
# A failure before the first token is tried again only if it came this fast.
FAST_S = 0.5


class CloudEngine:
    """Answers by the cloud's model. Safe to use from several threads."""

    def __init__(
        self,
        channel: Channel,
        boundary: Boundary,
        *,
        timeout_s: float = TIMEOUT_S,
        budget: RetryBudget | None = None,
    ) -> None:
        """`timeout_s` bounds a whole answer; the service stops working on it then."""
        self._channel = channel
        self._boundary = boundary
        self._timeout_s = timeout_s
        self._budget = budget or RetryBudget()

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield the answer in pieces; only the last has a finish_reason.

        Raises CloudError, PrivacyError for what may not leave the device, and InvalidRequestError
        for a request that the wire does not carry or the policy does not know.
        """
        self._budget.earn()
        start = time.monotonic()
        answer_id = secrets.token_urlsafe(24)
        encode_request(request, answer_id, 0)
        departure = self._boundary.leave(MESSAGE, _fields(request))
        message = encode_request(_leaving(request, departure), answer_id, 0)
        restorer = Restorer(departure.placeholders)
        for chunk in self._chunks(message, request, start):
            text = restorer.feed(chunk.text)
            if chunk.finish_reason is not None:
                text += restorer.finish()
            yield replace(chunk, text=text)

    def _chunks(self, message: GenerateRequest, request: Request, start: float) -> Iterator[Chunk]:
        """The answer as it comes, resumed where it breaks off."""
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


def _fields(request: Request) -> dict[str, Value]:
    """A request as the fields that the policy decides about."""
    *earlier, last = request.messages
    sampling = request.sampling
    fields: dict[str, Value | None] = {
        "prompt": last.content,
        "history": [[turn.role, turn.content] for turn in earlier] or None,
        "text": request.text,
        "stop": list(request.stop) or None,
        "schema": cast("Mapping[str, Value] | None", request.schema),
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature or None,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _leaving(request: Request, departure: Departure) -> Request:
    """The request with its texts as they may leave. Raises InvalidRequestError."""
    if departure.dropped:
        # Without a field the answer would be to another question.
        message = f"the privacy policy does not send {', '.join(departure.dropped)}"
        raise InvalidRequestError(message)
    payload = departure.payload
    history = cast("Sequence[Sequence[str]]", payload.get("history", ()))
    contents = [*(content for _, content in history), cast(str, payload["prompt"])]
    return replace(
        request,
        messages=tuple(
            Message(turn.role, content)
            for turn, content in zip(request.messages, contents, strict=True)
        ),
        text=cast("str | None", payload.get("text")),
        stop=tuple(cast("Sequence[str]", payload.get("stop", ()))),
        schema=cast("Mapping[str, Value] | None", payload.get("schema")),
    )
