"""The methods of the services in proto/autoglm/v1, for clients and servers of connectrpc."""

from __future__ import annotations

from typing import TypeVar

from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType

from autoglm.protocol.v1.blocks_pb2 import Block, BlockNames
from autoglm.protocol.v1.inference_pb2 import GenerateRequest, GenerateResponse
from autoglm.protocol.v1.sync_pb2 import SyncRequest, SyncResponse

T = TypeVar("T")
U = TypeVar("U")

SYNC_SERVICE = "autoglm.v1.SyncService"
INFERENCE_SERVICE = "autoglm.v1.InferenceService"

BLOCK_SERVICE = "autoglm.v1.BlockService"


def _sync(name: str, kind: StreamType) -> MethodInfo[SyncRequest, SyncResponse]:
    return MethodInfo(
        name=name,
        service_name=SYNC_SERVICE,
        input=SyncRequest,
        output=SyncResponse,
        idempotency_level=IdempotencyLevel.IDEMPOTENT,
        stream_type=kind,
    )


def _inference(name: str, kind: StreamType) -> MethodInfo[GenerateRequest, GenerateResponse]:
    return MethodInfo(
        name=name,
        service_name=INFERENCE_SERVICE,
        input=GenerateRequest,
        output=GenerateResponse,
        idempotency_level=IdempotencyLevel.IDEMPOTENT,
        stream_type=kind,
    )


def _unary(name: str, given: type[T], found: type[U]) -> MethodInfo[T, U]:
    return MethodInfo(
        name=name,
        service_name=BLOCK_SERVICE,
        input=given,
        output=found,
        idempotency_level=IdempotencyLevel.IDEMPOTENT,
        stream_type=StreamType.UNARY,
    )


MISSING = _unary("Missing", BlockNames, BlockNames)
PUT = _unary("Put", Block, BlockNames)
GET = _unary("Get", BlockNames, Block)
EXCHANGE = _sync("Exchange", StreamType.BIDI_STREAM)
ROUND = _sync("Round", StreamType.UNARY)
GENERATE = _inference("Generate", StreamType.SERVER_STREAM)
COMPLETE = _inference("Complete", StreamType.UNARY)


def path_of(service: str, method: str) -> str:
    """The path of a method on every protocol."""
    return f"/{service}/{method}"
