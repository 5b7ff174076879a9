"""JSON in and out, streams of events, and the one place where errors become responses."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from autoglm.errors import AutoGLMError, CancelledError
from autoglm.serve.answers import unless_gone
from autoglm.serve.errors import headers_of, ollama_form, openai_form, status_of
from autoglm.serve.fields import Fields, parse_object
from autoglm.serve.metrics import Metrics

Handler = Callable[[HttpRequest], Awaitable[Response]]
ErrorForm = Callable[[BaseException], dict[str, object]]
SSE = "text/event-stream"
# Larger bodies are parsed beside the event loop.
MAX_QUICK_BYTES = 64 * 1024
NDJSON = "application/x-ndjson"
log = logging.getLogger("autoglm.serve")


def dump(value: object) -> bytes:
    """Compact JSON in UTF-8; text that is no valid Unicode becomes question marks."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


class Json(Response):
    """A JSON response."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The body."""
        return dump(content)


def form_of(path: str) -> ErrorForm:
    """The form of errors that the clients of a route read."""
    return ollama_form if path.startswith("/api/") else openai_form


def error_response(err: BaseException, path: str) -> Json:
    """The response for an error."""
    return Json(form_of(path)(err), status_of(err), headers_of(err))


async def read_body(request: HttpRequest) -> Fields:
    """The JSON object of a request. Raises FieldError."""
    content = await request.body()
    if len(content) <= MAX_QUICK_BYTES:
        return parse_object(content)
    return await asyncio.to_thread(parse_object, content)


def endpoint(handler: Handler, metrics: Metrics, route: str) -> Handler:
    """A handler whose errors become responses, counted and logged without any text of users.

    `route` is the pattern of its path.
    """

    async def call(request: HttpRequest) -> Response:
        start = time.perf_counter()
        path = request.url.path
        try:
            response = await handler(request)
        except ClientDisconnect:
            response = error_response(CancelledError("the client has gone"), path)
        except Exception as err:  # clients get a JSON error whatever happened
            response = error_response(err, path)
            note_unexpected(err, path)
        metrics.count("requests_total", route=route, status=str(response.status_code))
        ms = (time.perf_counter() - start) * 1e3
        # The console looks every second.
        level = logging.DEBUG if path.startswith("/console/") else logging.INFO
        note = partial(log.log, level, "%s %s %d %.0f ms", request.method, path)
        # The client comes first.
        asyncio.get_running_loop().call_soon(note, response.status_code, ms)
        return response

    return call


def note_unexpected(err: BaseException, path: str) -> None:
    """Log where a defect is, not what it says: that may be a user's text."""
    if isinstance(err, AutoGLMError):
        return
    trace = err.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    log.error("%s: internal error (%s)%s", path, type(err).__name__, place)


class EventStream(Response):
    """A stream of bytes that ends, and lets go of its work, when the client has gone."""

    def __init__(self, events: AsyncGenerator[bytes, None], media_type: str, path: str) -> None:
        super().__init__(media_type=media_type, headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._events = events
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes."""
        try:
            await unless_gone(self._send_all(send), receive)
        except CancelledError:
            log.info("%s: the client has gone", self._path)

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._events):
            try:
                async for event in self._events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except Exception as err:  # the status is sent: the error is the last event
                note_unexpected(err, self._path)
                body = dump(form_of(self._path)(err))
                if self.media_type == SSE:
                    body = b"data: " + body + b"\n"
                await send({"type": "http.response.body", "body": body + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def stream(
    request: HttpRequest, events: AsyncGenerator[bytes, None], media_type: str
) -> EventStream:
    """A response that begins with the first event, so that earlier errors have their status."""
    first = await unless_gone(anext(events), request.receive)
    return EventStream(_chained(first, events), media_type, request.url.path)


async def _chained(
    first: bytes, events: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


def sse(value: object) -> bytes:
    """An event of a stream of server-sent events."""
    return b"data: " + dump(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
