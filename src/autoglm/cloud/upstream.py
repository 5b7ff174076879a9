"""Answers of a server that speaks OpenAI's interface, such as vLLM, as an engine of the service.

Texts are sent as they come: what a device may not tell was replaced before it left the device. The
key goes to the one address only; no redirect is followed.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

from autoglm.engine.prompt import last_message
from autoglm.errors import CloudError, InvalidRequestError, UsageError
from autoglm.types import Chunk, FinishReason, Request, Usage

TIMEOUT_S = 60.0
MAX_LINE_BYTES = 2**20
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class UpstreamEngine:
    """One model of one server. Every piece that comes counts as a token. For any threads."""

    def __init__(
        self, address: str, model: str, *, key: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`address` ends in the version, as in http://host:8000/v1. Raises UsageError."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = f"{address}: expected the address of a server, as in http://host:8000/v1"
            raise UsageError(message)
        self._is_secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = f"{parts.path.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"content-type": "application/json", "accept": "text/event-stream"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._timeout_s = timeout_s

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield the answer as it comes. Raises CloudError, and InvalidRequestError if refused."""
        body = json.dumps(self._body(request), ensure_ascii=False).encode()
        with closing(self._connection()) as connection:
            try:
                connection.request("POST", self._path, body, self._headers)
                with request.cancellation.attached(partial(_cut, connection.sock)):
                    yield from _chunks(connection.getresponse())
            except (OSError, http.client.HTTPException, CloudError) as err:
                if request.cancellation.is_cancelled:
                    yield Chunk("", finish_reason="cancelled", usage=Usage(0, 0))
                    return
                if isinstance(err, CloudError):
                    raise
                message = f"the upstream server failed ({type(err).__name__})"
                raise CloudError(message) from err

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout_s)

    def _body(self, request: Request) -> dict[str, Any]:
        if request.prompt is not None or request.grammar is not None or request.tools:
            message = "the upstream server answers messages, with a schema at most"
            raise InvalidRequestError(message)
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [
                {"role": turn.role, "content": turn.content}
                for turn in (*request.messages[:-1], last_message(request))
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "max_tokens": request.max_tokens,
            "stop": list(request.stop) or None,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
        }
        if request.schema is not None:
            schema = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in body.items() if value is not None}


def _cut(connection: socket.socket) -> None:
    """End a connection that another thread reads."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _chunks(response: http.client.HTTPResponse) -> Iterator[Chunk]:
    """The pieces of a stream, and an end that tells how many there were."""
    if response.status != HTTPStatus.OK:
        # What it says may hold the prompt.
        message = f"the upstream server answered {response.status}"
        is_ours = response.status in (400, 404, 413, 422)
        raise (InvalidRequestError if is_ours else CloudError)(message)
    number, reason, usage = 0, None, None
    for event in _events(response):
        if found := event.get("usage"):
            usage = Usage(found["prompt_tokens"], found["completion_tokens"])
        for choice in event.get("choices", ()):
            if text := choice.get("delta", {}).get("content"):
                yield Chunk(text, (number,))
                number += 1
            reason = choice.get("finish_reason") or reason
    if reason not in _REASONS:
        message = f"the upstream server broke off after {number} pieces"
        raise CloudError(message)
    yield Chunk("", finish_reason=_REASONS[reason], usage=usage or Usage(0, number))


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON documents of server-sent events."""
    while line := response.readline(MAX_LINE_BYTES):
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as err:
            message = "the upstream server sent something else than JSON"
            raise CloudError(message) from err
        if not isinstance(event, dict) or "error" in event:
            message = "the upstream server failed in the middle of an answer"
            raise CloudError(message)
        yield cast("dict[str, Any]", event)
