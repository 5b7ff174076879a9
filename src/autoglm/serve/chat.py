"""OpenAI's chat completions: messages in, answers out, whole or as a stream of deltas."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from autoglm.engine.call_reader import CallPart, CallReader
from autoglm.serve.answers import Piece, ending, unless_gone
from autoglm.serve.errors import FieldError
from autoglm.serve.fields import Fields
from autoglm.serve.http import DONE, SSE, Json, read_body, sse, stream
from autoglm.serve.models import Opened, ServedModel
from autoglm.serve.parse import Wishes, read_top_logprobs, read_wishes
from autoglm.serve.service import Service, Work
from autoglm.serve.tool_fields import ToolWishes, call_delta, call_form, read_calls, read_tools
from autoglm.types import Chunk, Message, Request, Result, Role, ToolCall, Usage

MAX_MESSAGES = 4096
MAX_PARTS = 256
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class ChatRoute:
    """POST /v1/chat/completions."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: HttpRequest) -> Response:
        """Answer one request."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model", ""))
        timeout = request.headers.get("x-request-timeout")
        wishes = read_wishes(body, timeout, read_top_logprobs(body))
        tools = read_tools(body)
        document = body.text("document") if body.has("document") else None
        if document is not None and not document.strip():
            body.fail("document", "a text that is not empty")
        if tools.may_call and wishes.grammar is not None:
            body.fail("response_format", "no form beside tools")
        messages = read_messages(body)
        if document is not None and messages[-1].role != "user":
            body.fail("document", "a last message of the user that it belongs to")
        work = chat_work(self._service, model, wishes, tools, messages, document)
        work = replace(work, has_layers=body.boolean("layers"))
        reply = ChatReply(model, wishes, tools)
        pieces = self._service.pieces(work)
        if wishes.is_streamed:
            return await stream(request, reply.events(pieces), SSE)
        return Json(await unless_gone(reply.whole(pieces), request.receive))


def chat_work(
    service: Service,
    model: ServedModel,
    wishes: Wishes,
    tools: ToolWishes,
    messages: tuple[Message, ...],
    document: str | None,
) -> Work:
    """What the models have to do for a chat, about a document of any length if there is one."""

    def requests(opened: Opened) -> list[Request]:
        return [
            Request(
                messages=messages,
                text=document,
                max_tokens=wishes.max_tokens,
                sampling=service.sampling(sampling),
                stop=wishes.stop,
                grammar=wishes.grammar,
                tools=tools.tools,
                tool_choice=tools.choice,
                is_parallel=tools.is_parallel,
            )
            for sampling in wishes.samplings(service.temperature(opened))
        ]

    return Work(
        model=model,
        requests=requests,
        num_answers=wishes.num_answers,
        priority=wishes.priority,
        timeout_s=wishes.timeout_s,
        form_field="tools" if wishes.grammar is None else wishes.form_field,
    )


def read_messages(body: Fields) -> tuple[Message, ...]:
    """The conversation. Raises FieldError."""
    messages = tuple(_message(item) for item in body.objects("messages", MAX_MESSAGES))
    if not messages:
        body.fail("messages", "a list of at least one message")
    last = f"messages[{len(messages) - 1}]"
    if messages[-1].role not in ("user", "tool"):
        message = "the last of messages must be the user's, or the result of a call"
        raise FieldError(message, field=f"{last}.role")
    if messages[-1].role == "user" and not messages[-1].content.strip():
        message = "the last of messages is empty; say what to do"
        raise FieldError(message, field=f"{last}.content")
    return messages


def _message(item: Fields) -> Message:
    role = item.choice("role", list(ROLES), "missing")
    if role not in ROLES:
        item.fail("role", f"one of {', '.join(ROLES)}")
    calls = read_calls(item) if role == "assistant" else ()
    return Message(ROLES[role], read_content(item), calls)


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


@dataclass(slots=True)
class Answer:
    """One answer as it grows; `reader` finds the calls in it, when there may be some."""

    reader: CallReader | None
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish: str | None = None
    has_begun: bool = False

    def take(self, chunk: Chunk) -> str:
        """The new text of a chunk."""
        text, calls = chunk.text, list[ToolCall]()
        if self.reader is not None:
            text, calls = self.reader.push(text)
            if chunk.finish_reason is not None:
                rest, late = self.reader.flush()
                text, calls = text + rest, calls + late
        self.text += text
        self.calls += calls
        if chunk.finish_reason is not None:
            self.finish = ending(chunk.finish_reason)
            if self.calls and self.finish == "stop":
                self.finish = "tool_calls"
        return text

    def take_parts(self) -> list[CallPart]:
        """The news of calls."""
        return [] if self.reader is None else self.reader.take_parts()


class ChatReply:
    """The answers to one chat request, in OpenAI's form."""

    def __init__(self, model: ServedModel, wishes: Wishes, tools: ToolWishes) -> None:
        self._model = model
        self._wishes = wishes
        self._tools = tools
        self._answers: list[Answer] = []
        self._usages: list[Usage] = []
        self._about: dict[str, Any] = {}
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": "autoglm",
        }

    async def whole(self, pieces: AsyncGenerator[Piece, None]) -> dict[str, Any]:
        """All answers at once."""
        async with aclosing(pieces):
            async for piece in pieces:
                self._take(piece)
        choices = [self._choice(index, answer) for index, answer in enumerate(self._answers)]
        head = self._head | {"object": "chat.completion"}
        return head | {"choices": choices, "usage": usage_form(self._usages)} | self._about

    async def events(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        """Deltas, the last of each answer with its finish reason."""
        async with aclosing(pieces):
            async for piece in pieces:
                answer, text = self._take(piece)
                delta: dict[str, Any] = {"content": text} if text else {}
                if not answer.has_begun:
                    answer.has_begun = True
                    delta = {"role": "assistant", "content": text}
                logprobs = self._logprobs(piece.chunk)
                if delta or logprobs:
                    yield self._event(piece.index, delta, None, logprobs)
                for part in answer.take_parts():
                    calls = {"tool_calls": [call_delta(part)]}
                    yield self._event(piece.index, calls, None, [])
                if answer.finish is not None:
                    yield self._event(piece.index, {}, answer.finish, [], self._about)
        if self._wishes.has_usage:
            head = self._head | {"object": "chat.completion.chunk"}
            yield sse(head | {"choices": [], "usage": usage_form(self._usages)})
        yield DONE

    def _take(self, piece: Piece) -> tuple[Answer, str]:
        if not self._answers:  # the model is in memory by now
            self._answers = [Answer(self._reader()) for _ in range(self._wishes.num_answers)]
        answer = self._answers[piece.index]
        text = answer.take(piece.chunk)
        answer.logprobs += self._logprobs(piece.chunk)
        if piece.chunk.finish_reason is not None:
            self._usages.append(piece.chunk.usage or Usage(0, 0))
        if piece.chunk.result is not None:
            self._about = {"autoglm": about(piece.chunk.result)}
        return answer, text

    def _reader(self) -> CallReader | None:
        if not self._tools.may_call:
            return None
        form, tools = self._model.tool_form, self._tools.tools
        return CallReader(form, tools, has_parts=self._wishes.is_streamed)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [call_form(call) for call in answer.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs_object(answer.logprobs),
            "finish_reason": answer.finish,
        }

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        finish: str | None,
        logprobs: list[Any],
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs_object(logprobs),
            "finish_reason": finish,
        }
        event = {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}
        return sse(event | {"usage": None} if self._wishes.has_usage else event)

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


def about(result: Result) -> dict[str, Any]:
    """Where an answer was computed, why there, and how long it took; beyond OpenAI's fields."""
    times = {
        "first_token_ms": round(result.timings.first_token_ms, 3),
        "total_ms": round(result.timings.total_ms, 3),
    }
    return asdict(result.route) | times


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
