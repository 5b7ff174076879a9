"""The services of proto/autoglm/v1 as Connect endpoints: gRPC, Connect and JSON from one code."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

from connectrpc.code import Code
from connectrpc.compat import google_protobuf_codecs
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint

from autoglm.cloud.answers import Answers
from autoglm.cloud.blocks import PostgresBlocks
from autoglm.cloud.hub import PostgresHub
from autoglm.errors import (
    AutoGLMError,
    CancelledError,
    CloudError,
    InvalidRequestError,
    ResourceError,
    StorageError,
    SyncError,
)
from autoglm.protocol.inference import decode_request, encode_chunk
from autoglm.protocol.rpc import (
    BLOCK_SERVICE,
    COMPLETE,
    EXCHANGE,
    GENERATE,
    GET,
    INFERENCE_SERVICE,
    MISSING,
    PUT,
    ROUND,
    SYNC_SERVICE,
    path_of,
)
from autoglm.protocol.v1.blocks_pb2 import Block, BlockNames
from autoglm.protocol.v1.inference_pb2 import GenerateRequest, GenerateResponse
from autoglm.protocol.v1.sync_pb2 import SyncRequest, SyncResponse
from autoglm.sync.link import HubLink

TENANT_HEADER = "x-autoglm-tenant"
MAX_MESSAGE_BYTES = 2**23

# The first class that fits tells a client whether to try again.
_CODES: tuple[tuple[type[AutoGLMError], Code], ...] = (
    (InvalidRequestError, Code.INVALID_ARGUMENT),
    (SyncError, Code.FAILED_PRECONDITION),
    (StorageError, Code.UNAVAILABLE),
    (CloudError, Code.UNAVAILABLE),
    (ResourceError, Code.RESOURCE_EXHAUSTED),
    (CancelledError, Code.CANCELED),
    (AutoGLMError, Code.INTERNAL),
)
Context = RequestContext[Any, Any]


class SyncService:
    """Rounds of the tenant that the connection speaks for."""

    def __init__(self, hub: PostgresHub, draining: asyncio.Event) -> None:
        """Streams end between two rounds when `draining` is set."""
        self._hub = hub
        self._draining = draining

    async def exchange(
        self, requests: AsyncIterator[SyncRequest], ctx: Context
    ) -> AsyncIterator[SyncResponse]:
        """A stream of rounds."""
        link = HubLink()
        async for message in _until(requests, self._draining):
            yield await self._round(link, message, ctx)

    async def round(self, message: SyncRequest, ctx: Context) -> SyncResponse:
        """A single round."""
        return await self._round(HubLink(), message, ctx)

    async def _round(self, link: HubLink, message: SyncRequest, ctx: Context) -> SyncResponse:
        with _as_rpc_errors():
            request = link.decode(message)
            response = await self._hub.serve(_tenant(ctx), request)
            return link.encode(response, request)


class BlockService:
    """Sealed blocks of large values."""

    def __init__(self, blocks: PostgresBlocks) -> None:
        self._blocks = blocks

    async def missing(self, message: BlockNames, ctx: Context) -> BlockNames:
        """The names that are not stored."""
        with _as_rpc_errors():
            return BlockNames(names=await self._blocks.missing(_tenant(ctx), message.names))

    async def put(self, message: Block, ctx: Context) -> BlockNames:
        """Store a block."""
        with _as_rpc_errors():
            await self._blocks.put(_tenant(ctx), message.name, message.data)
            return BlockNames()

    async def get(self, message: BlockNames, ctx: Context) -> Block:
        """The one block that is named."""
        with _as_rpc_errors():
            name = b"".join(message.names)
            return Block(name=name, data=await self._blocks.get(_tenant(ctx), name))


class InferenceService:
    """Answers of one engine."""

    def __init__(self, answers: Answers, model: str) -> None:
        self._answers = answers
        self._model = model

    async def generate(
        self, message: GenerateRequest, ctx: Context
    ) -> AsyncGenerator[GenerateResponse, None]:
        """The answer after the caller's offset, as it is written."""
        position, model = message.offset, self._model
        with _as_rpc_errors():
            request = decode_request(message)
            key = (_tenant(ctx), message.id)
            stream = self._answers.stream(key, request, message.offset, deadline=_deadline(ctx))
            async with contextlib.aclosing(stream) as chunks:
                async for chunk in chunks:
                    position += len(chunk.token_ids)
                    yield encode_chunk(chunk, model, position)
                    model = ""

    async def complete(self, message: GenerateRequest, ctx: Context) -> GenerateResponse:
        """The whole answer."""
        whole = GenerateResponse()
        text = ""
        async with contextlib.aclosing(self.generate(message, ctx)) as responses:
            async for response in responses:
                text += response.text
                # Repeated fields are joined, others take the last value that is set.
                whole.MergeFrom(response)
        whole.text = text
        return whole


def _tenant(ctx: Context) -> str:
    """The tenant, which the application has put in the place of the token."""
    return ctx.request_headers[TENANT_HEADER]


def _deadline(ctx: Context) -> float | None:
    left_ms = ctx.timeout_ms
    return None if left_ms is None else asyncio.get_running_loop().time() + left_ms / 1000


async def _until(
    requests: AsyncIterator[SyncRequest], stopping: asyncio.Event
) -> AsyncIterator[SyncRequest]:
    """The messages of a stream until it ends or the service stops."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(requests))
            await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                return
            try:
                message = following.result()
            except StopAsyncIteration:
                return
            yield message
    finally:
        stop.cancel()


@contextlib.contextmanager
def _as_rpc_errors() -> Iterator[None]:
    """Our errors with the code of their class."""
    try:
        yield
    except AutoGLMError as err:
        code = next(code for kind, code in _CODES if isinstance(err, kind))
        raise ConnectError(code, str(err)) from err


class Application(ConnectASGIApplication[None]):
    """All services as one ASGI application."""

    def __init__(
        self, sync: SyncService, blocks: BlockService, inference: InferenceService | None
    ) -> None:
        endpoints: dict[str, Any] = {
            path_of(SYNC_SERVICE, "Exchange"): Endpoint.bidi_stream(EXCHANGE, sync.exchange),
            path_of(SYNC_SERVICE, "Round"): Endpoint.unary(ROUND, sync.round),
            path_of(BLOCK_SERVICE, "Missing"): Endpoint.unary(MISSING, blocks.missing),
            path_of(BLOCK_SERVICE, "Put"): Endpoint.unary(PUT, blocks.put),
            path_of(BLOCK_SERVICE, "Get"): Endpoint.unary(GET, blocks.get),
        }
        if inference is not None:
            endpoints |= {
                path_of(INFERENCE_SERVICE, "Generate"): Endpoint.server_stream(
                    GENERATE, inference.generate
                ),
                path_of(INFERENCE_SERVICE, "Complete"): Endpoint.unary(
                    COMPLETE, inference.complete
                ),
            }
        self.paths = frozenset(endpoints)

        def find(_: None) -> Mapping[str, Any]:
            return endpoints

        super().__init__(
            service=None,
            endpoints=find,
            read_max_bytes=MAX_MESSAGE_BYTES,
            compressions=(),
            codecs=google_protobuf_codecs(),
        )

    @property
    def path(self) -> str:
        """Where the application is mounted."""
        return "/"
