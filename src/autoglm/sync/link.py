"""Both ends of a stream of rounds: requests and responses to messages, and back.

What both ends know from the messages before is left out. A single round is a stream of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autoglm.errors import SyncError
from autoglm.protocol.v1.sync_pb2 import Hello, Knowledge, SyncRequest, SyncResponse
from autoglm.sync.messages import Push, Request, Response
from autoglm.sync.wire import (
    MAX_NUMBER,
    Direction,
    decode_versions,
    encode_versions,
    flat,
    malformed,
    pairs,
)

PROTOCOL = 2


@dataclass(frozen=True, slots=True)
class _Known:
    """What the device knows after the last response, if it took it in."""

    epoch: int = 0
    acked: int = 0
    vector: dict[int, int] = field(default_factory=dict)

    def after(self, request: Request, response: Response) -> _Known:
        if response.actor != request.actor or response.is_forked or response.inline:
            return _Known()
        if response.epoch > request.epoch:
            return _Known(response.epoch, response.acked)
        newer = {a: c for a, c in response.vector.items() if c > request.vector.get(a, 0)}
        return _Known(response.epoch, response.acked, request.vector | newer)


def _end(request: Request) -> int:
    """The counter that the hub confirms if all goes well."""
    return request.acked if request.push is None else request.push.upto


def _expected_vector(request: Request, acked: int) -> dict[int, int]:
    vector = dict(request.vector)
    if acked and vector.get(request.actor, 0) == request.acked:
        vector[request.actor] = acked
    return vector


class DeviceLink:
    """The device's end: `encode` a request, then `decode` its answer, and so on."""

    def __init__(self) -> None:
        self._known = _Known()
        self._hello = Hello()
        self._out = Direction()
        self._in = Direction()

    def encode(self, request: Request) -> SyncRequest:
        """The message of a request with sealed versions."""
        message = SyncRequest(wanted=flat(request.wanted))
        hello = Hello(protocol=PROTOCOL, actor=request.actor)
        if not request.actor:
            hello.enrolment = request.enrolment
        if hello != self._hello:
            self._hello = hello
            message.hello.CopyFrom(hello)
        if _Known(request.epoch, request.acked, request.vector) != self._known:
            message.knowledge.CopyFrom(
                Knowledge(
                    epoch=request.epoch,
                    acked=request.acked,
                    vector=flat(sorted(request.vector.items())),
                )
            )
        if (push := request.push) is not None:
            message.batch = push.batch
            last = push.versions[-1].dot[1] if push.versions else request.acked
            message.skipped = push.upto - last
            if push.versions:
                before = request.actor, request.acked
                message.versions.CopyFrom(encode_versions(push.versions, before, self._out))
        return message

    def decode(self, message: SyncResponse, request: Request) -> Response:
        """The answer to a request. Raises SyncError."""
        acked = message.acked if message.HasField("acked") else _end(request)
        before = request.actor, 0
        versions = (
            decode_versions(message.versions, before, self._in)
            if message.HasField("versions")
            else ()
        )
        response = Response(
            request.round,
            message.actor or request.actor,
            acked,
            message.epoch if message.HasField("epoch") else request.epoch,
            _expected_vector(request, acked) | dict(pairs(message.vector)),
            versions,
            message.more,
            message.forked,
            tuple(pairs(message.inline)),
        )
        self._known = self._known.after(request, response)
        return response


class HubLink:
    """The hub's end: `decode` a message, then `encode` the answer, and so on."""

    def __init__(self) -> None:
        self._known = _Known()
        self._hello = Hello()
        self._out = Direction()
        self._in = Direction()

    def decode(self, message: SyncRequest) -> Request:
        """The request in a message. Raises SyncError."""
        if message.HasField("hello"):
            self._hello = Hello.FromString(message.hello.SerializeToString())
        hello = self._hello
        if hello.protocol != PROTOCOL:
            text = f"the device speaks protocol {hello.protocol}, this hub {PROTOCOL}; update one"
            raise SyncError(text)
        known = self._known
        if message.HasField("knowledge"):
            given = message.knowledge
            known = _Known(given.epoch, given.acked, dict(pairs(given.vector)))
        push = None
        if message.HasField("batch"):
            before = hello.actor, known.acked
            versions = (
                decode_versions(message.versions, before, self._in)
                if message.HasField("versions")
                else ()
            )
            upto = (versions[-1].dot[1] if versions else known.acked) + message.skipped
            if upto >= MAX_NUMBER or any(v.dot[0] != hello.actor for v in versions):
                what = "a push in another device's name"
                raise malformed(what)
            push = Push(message.batch, upto, versions)
        wanted = tuple(pairs(message.wanted))
        return Request(
            0, hello.actor, hello.enrolment, known.epoch, known.acked, known.vector, push, wanted
        )

    def encode(self, response: Response, request: Request) -> SyncResponse:
        """The message of a response to a request."""
        message = SyncResponse(more=response.more, forked=response.is_forked)
        if response.acked != _end(request):
            message.acked = response.acked
        if response.epoch != request.epoch:
            message.epoch = response.epoch
        if response.actor != request.actor:
            message.actor = response.actor
        message.inline.extend(flat(response.inline))
        expected = _expected_vector(request, response.acked)
        news = {a: c for a, c in response.vector.items() if expected.get(a, 0) != c}
        message.vector.extend(flat(sorted(news.items())))
        if response.versions:
            before = request.actor, 0
            message.versions.CopyFrom(encode_versions(response.versions, before, self._out))
        self._known = self._known.after(request, response)
        return message
