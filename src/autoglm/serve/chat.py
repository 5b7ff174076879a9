"""OpenAI's chat completions: messages in, answers out, whole or as a stream of deltas."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from autoglm.serve.answers import Piece, ending, unless_gone
from autoglm.serve.errors import FieldError
from autoglm.serve.fields import Fields
from autoglm.serve.http import DONE, SSE, Json, read_body, sse, stream
from autoglm.serve.models import Opened, ServedModel
from autoglm.serve.parse import Wishes, read_top_logprobs, read_wishes
from autoglm.serve.service import Service, Work
from autoglm.types import Chunk, Message, Request, Role, Usage

MAX_MESSAGES = 4096
MAX_PARTS = 256
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class ChatRoute:
    """POST /v1/chat/completions."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: HttpRequest) -> Response:
        """Answer one request."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model", ""))
        wishes = read_wishes(
            body, request.headers.get("x-request-timeout"), read_top_logprobs(body)
        )
        messages = read_messages(body)
        service = self._service

        def requests(opened: Opened) -> list[Request]:
            return [
                Request(
                    messages=messages,
                    max_tokens=wishes.max_tokens,
                    sampling=sampling,
                    stop=wishes.stop,
                    grammar=wishes.grammar,
                )
                for sampling in wishes.samplings(service.temperature(opened))
            ]

        work = Work(
            model=model,
            requests=requests,
            num_answers=wishes.num_answers,
            priority=wishes.priority,
            timeout_s=wishes.timeout_s,
        )
        reply = ChatReply(model, wishes)
        pieces = service.pieces(work)
        if wishes.is_streamed:
            return await stream(request, reply.events(pieces), SSE)
        return Json(await unless_gone(reply.whole(pieces), request.receive))


def read_messages(body: Fields) -> tuple[Message, ...]:
    """The conversation. Raises FieldError."""
    messages = tuple(_message(item) for item in body.objects("messages", MAX_MESSAGES))
    if not messages:
        body.fail("messages", "a list of at least one message")
    if messages[-1].role != "user":
        message = "the last of messages must be the user's"
        raise FieldError(message, field=f"messages[{len(messages) - 1}].role")
    if not messages[-1].content.strip():
        message = "the last of messages is empty; say what to do"
        raise FieldError(message, field=f"messages[{len(messages) - 1}].content")
    return messages


def _message(item: Fields) -> Message:
    role = item.choice("role", list(ROLES), "missing")
    if role not in ROLES:
        item.fail("role", f"one of {', '.join(ROLES)}")
    return Message(ROLES[role], read_content(item))


def read_content(item: Fields) -> str:
    """A string, or the texts of a list of parts."""
    if not isinstance(item.values.get("content"), list):
        return item.text("content", "" if item.values.get("role") == "assistant" else None)
    texts = []
    for part in item.objects("content", MAX_PARTS):
        if part.values.get("type") not in ("text", "input_text"):
            part.fail("type", "'text': this service reads texts only")
        texts.append(part.text("text"))
    return "\n".join(texts)


class ChatReply:
    """The answers to one chat request, in OpenAI's form."""

    def __init__(self, model: ServedModel, wishes: Wishes) -> None:
        self._wishes = wishes
        self._model = model
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": "autoglm",
        }

    async def whole(self, pieces: AsyncGenerator[Piece, None]) -> dict[str, Any]:
        """All answers at once."""
        count = self._wishes.num_answers
        texts, finishes = [""] * count, ["stop"] * count
        logprobs: list[list[Any]] = [[] for _ in range(count)]
        usages: list[Usage] = []
        async with aclosing(pieces):
            async for index, chunk in _unpacked(pieces):
                texts[index] += chunk.text
                logprobs[index] += self._logprobs(chunk)
                if chunk.finish_reason is not None:
                    finishes[index] = ending(chunk.finish_reason)
                    usages.append(chunk.usage or Usage(0, 0))
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": texts[index], "refusal": None},
                "logprobs": self._logprobs_object(logprobs[index]),
                "finish_reason": finishes[index],
            }
            for index in range(count)
        ]
        head = self._head | {"object": "chat.completion"}
        return head | {"choices": choices, "usage": usage_form(usages)}

    async def events(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        """Deltas, the last of each answer with its finish reason."""
        usages: list[Usage] = []
        begun: set[int] = set()
        async with aclosing(pieces):
            async for index, chunk in _unpacked(pieces):
                delta: dict[str, Any] = {}
                if index not in begun:
                    begun.add(index)
                    delta = {"role": "assistant", "content": ""}
                if chunk.text:
                    delta["content"] = chunk.text
                finish = None
                if chunk.finish_reason is not None:
                    finish = ending(chunk.finish_reason)
                    usages.append(chunk.usage or Usage(0, 0))
                if delta or finish or chunk.logprobs:
                    yield sse(self._event(index, delta, finish, self._logprobs(chunk)))
        if self._wishes.has_usage:
            head = self._head | {"object": "chat.completion.chunk"}
            yield sse(head | {"choices": [], "usage": usage_form(usages)})
        yield DONE

    def _event(
        self, index: int, delta: dict[str, Any], finish: str | None, logprobs: list[Any]
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs_object(logprobs),
            "finish_reason": finish,
        }
        event = self._head | {"object": "chat.completion.chunk", "choices": [choice]}
        return event | {"usage": None} if self._wishes.has_usage else event

    def _logprobs_object(self, entries: list[Any]) -> dict[str, Any] | None:
        if self._wishes.sampling.num_logprobs is None:
            return None
        return {"content": entries, "refusal": None}

    def _logprobs(self, chunk: Chunk) -> list[dict[str, Any]]:
        entries = []
        for one in chunk.logprobs:
            top = [self._entry(token, logprob) for token, logprob in one.top]
            entries.append(self._entry(one.token, one.logprob) | {"top_logprobs": top})
        return entries

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._model.text_of(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


async def _unpacked(
    pieces: AsyncGenerator[Piece, None],
) -> AsyncGenerator[tuple[int, Chunk], None]:
    async for piece in pieces:
        yield piece.index, piece.chunk


def usage_form(usages: list[Usage]) -> dict[str, Any]:
    """OpenAI's counts; the prompt counts once, however many answers there are."""
    prompt = usages[0].prompt_tokens if usages else 0
    completion = sum(usage.completion_tokens for usage in usages)
    cached = min((usage.cached_tokens for usage in usages), default=0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
