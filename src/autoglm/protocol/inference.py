"""Requests and chunks of answers as messages of the wire, and back; both ends use it."""

from __future__ import annotations

import json
import re
from typing import Any, cast, get_args

from autoglm.errors import InvalidRequestError
from autoglm.protocol.v1.inference_pb2 import (
    ChatMessage,
    GenerateRequest,
    GenerateResponse,
    TokenUsage,
)
from autoglm.types import Chunk, FinishReason, Message, Request, Role, SamplingParams, Usage

ID = re.compile(r"[A-Za-z0-9_-]{16,64}")


def encode_request(request: Request, answer_id: str, offset: int) -> GenerateRequest:
    """A request for the answer `answer_id` after its first `offset` tokens.

    Raises InvalidRequestError for what the wire does not carry.
    """
    sampling = request.sampling
    plain = SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed,
    )
    is_more = request.prompt is not None or request.grammar is not None or request.tools
    if is_more or sampling != plain:
        message = "the cloud answers messages, with temperature, top_k, top_p, seed and a schema"
        raise InvalidRequestError(message)
    schema = None if request.schema is None else json.dumps(dict(request.schema))
    return GenerateRequest(
        id=answer_id,
        offset=offset,
        messages=[ChatMessage(role=m.role, content=m.content) for m in request.messages],
        text=request.text,
        max_tokens=request.max_tokens,
        stop=request.stop,
        temperature=sampling.temperature or None,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed,
        schema=schema,
    )


def decode_request(message: GenerateRequest) -> Request:
    """The request in a message. Raises InvalidRequestError."""
    if not ID.fullmatch(message.id):
        text = "the id of a request has 16 to 64 letters, digits, - or _, chosen at random"
        raise InvalidRequestError(text)
    if any(turn.role not in get_args(Role) for turn in message.messages):
        text = f"a message's role is none of {', '.join(get_args(Role))}"
        raise InvalidRequestError(text)

    def given(name: str) -> Any:
        return getattr(message, name) if message.HasField(name) else None

    return Request(
        messages=tuple(Message(cast(Role, m.role), m.content) for m in message.messages),
        text=given("text"),
        max_tokens=given("max_tokens"),
        stop=tuple(message.stop),
        sampling=SamplingParams(
            temperature=message.temperature,
            top_k=given("top_k"),
            top_p=given("top_p"),
            seed=given("seed"),
        ),
        schema=_schema(message.schema) if message.HasField("schema") else None,
    )


def _schema(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as err:
        message = "the schema is not JSON"
        raise InvalidRequestError(message) from err
    if not isinstance(found, dict):
        message = "the schema is no JSON object"
        raise InvalidRequestError(message)
    return found


def encode_chunk(chunk: Chunk, model: str, position: int) -> GenerateResponse:
    """A piece of an answer that ends at token `position`."""
    message = GenerateResponse(
        text=chunk.text,
        token_ids=chunk.token_ids,
        finish_reason=chunk.finish_reason or "",
        model=model,
        position=position,
    )
    if chunk.usage is not None:
        message.usage.CopyFrom(
            TokenUsage(
                prompt_tokens=chunk.usage.prompt_tokens,
                completion_tokens=chunk.usage.completion_tokens,
                cached_tokens=chunk.usage.cached_tokens,
            )
        )
    return message


def decode_chunk(message: GenerateResponse) -> Chunk:
    """The piece in a message."""
    reason = message.finish_reason or None
    if reason is not None and reason not in get_args(FinishReason):
        text = "the cloud ended the answer for an unknown reason"
        raise InvalidRequestError(text)
    usage = None
    if message.HasField("usage"):
        found = message.usage
        usage = Usage(found.prompt_tokens, found.completion_tokens, found.cached_tokens)
    return Chunk(
        message.text,
        tuple(message.token_ids),
        finish_reason=cast("FinishReason | None", reason),
        usage=usage,
    )
