"""OpenAI's completions: prompts are continued as they stand, and can be echoed and scored.

Evaluation harnesses read log probabilities of given texts here: `echo` with `max_tokens` 0.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from autoglm.serve.answers import Piece, ending, unless_gone
from autoglm.serve.chat import usage_form
from autoglm.serve.errors import FieldError
from autoglm.serve.fields import Fields
from autoglm.serve.http import DONE, SSE, Json, read_body, sse, stream
from autoglm.serve.models import Opened, ServedModel
from autoglm.serve.parse import Wishes, read_wishes
from autoglm.serve.service import Service, Work
from autoglm.serve.texts import is_ids
from autoglm.types import (
    MAX_LOGPROBS,
    MAX_TOKENS,
    Cancellation,
    Logprob,
    Request,
    Usage,
)

MAX_PROMPTS = 32
DEFAULT_MAX_TOKENS = 16  # as OpenAI's

Prompt = str | tuple[int, ...]


@dataclass(slots=True)
class Choice:
    """One answer as it grows, with what is echoed before it."""

    text: str = ""
    finish: str = "length"
    logprobs: list[Logprob] = field(default_factory=list)
    usage: Usage | None = None


class CompletionRoute:
    """POST /v1/completions."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: HttpRequest) -> Response:
        """Answer one request."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model", ""))
        num_logprobs = body.integer("logprobs", 0, MAX_LOGPROBS)
        num_tokens = body.integer("max_tokens", 0, MAX_TOKENS)
        if num_tokens == 0:
            del body.values["max_tokens"]
        wishes = read_wishes(body, request.headers.get("x-request-timeout"), num_logprobs)
        prompts = read_prompts(body)
        if len(prompts) * wishes.num_answers > MAX_PROMPTS:
            body.fail("prompt", f"at most {MAX_PROMPTS} answers")
        is_echoed = body.boolean("echo")
        if num_tokens == 0 and not is_echoed:
            body.fail("max_tokens", "at least 1 without echo")
        reply = CompletionReply(self._service, model, wishes, prompts, is_echoed=is_echoed)
        if num_tokens is None:
            num_tokens = DEFAULT_MAX_TOKENS
        if wishes.is_streamed:
            return await stream(request, reply.events(num_tokens), SSE)
        return Json(await unless_gone(reply.whole(num_tokens), request.receive))


def read_prompts(body: Fields) -> list[Prompt]:
    """A text, token ids, or a list of either. Raises FieldError."""
    value = body.values.get("prompt")
    if isinstance(value, str):
        prompts: list[Any] = [value]
    elif isinstance(value, list) and value and type(value[0]) is int:
        prompts = [value]
    elif isinstance(value, list) and 0 < len(value) <= MAX_PROMPTS:
        prompts = value
    else:
        body.fail("prompt", f"a text, token ids, or a list of at most {MAX_PROMPTS} of them")
    return [_prompt(number, prompt) for number, prompt in enumerate(prompts)]


def _prompt(number: int, value: object) -> Prompt:
    if isinstance(value, str) and value:
        value.encode("utf-8", "replace")
        return value
    if is_ids(value):
        return tuple(value)
    message = f"prompt {number} is empty or no text; expected a text or token ids"
    raise FieldError(message, field="prompt")


class CompletionReply:
    """The answers to one request, in OpenAI's form."""

    def __init__(
        self,
        service: Service,
        model: ServedModel,
        wishes: Wishes,
        prompts: list[Prompt],
        *,
        is_echoed: bool,
    ) -> None:
        self._service = service
        self._model = model
        self._wishes = wishes
        self._prompts = prompts
        self._is_echoed = is_echoed
        self._head: dict[str, Any] = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }

    async def whole(self, num_tokens: int) -> dict[str, Any]:
        """All answers at once."""
        choices: list[Choice] = []
        for prompt in self._prompts:
            echoed = await self._echo(prompt)
            fresh = [
                Choice(echoed.text, logprobs=list(echoed.logprobs), usage=echoed.usage)
                for _ in range(self._wishes.num_answers)
            ]
            if num_tokens > 0:
                async with aclosing(self._service.pieces(self._work(prompt, num_tokens))) as pieces:
                    async for piece in pieces:
                        _add(fresh[piece.index], piece)
            choices += fresh
        forms = [self._choice(i, c.text, c.finish, c.logprobs) for i, c in enumerate(choices)]
        usages = [choice.usage or Usage(0, 0) for choice in choices]
        return self._head | {"choices": forms, "usage": _sum(usages, self._wishes.num_answers)}

    async def events(self, num_tokens: int) -> AsyncGenerator[bytes, None]:
        """The answers as they grow."""
        usages: list[Usage] = []
        for number, prompt in enumerate(self._prompts):
            first = number * self._wishes.num_answers
            echoed = await self._echo(prompt)
            if self._is_echoed:
                for index in range(first, first + self._wishes.num_answers):
                    finish = None if num_tokens else "length"
                    yield self._event(index, echoed.text, finish, echoed.logprobs)
            if num_tokens == 0:
                usages += [echoed.usage or Usage(0, 0)] * self._wishes.num_answers
                continue
            async with aclosing(self._service.pieces(self._work(prompt, num_tokens))) as pieces:
                async for piece in pieces:
                    chunk, finish = piece.chunk, None
                    if chunk.finish_reason is not None:
                        finish = ending(chunk.finish_reason)
                        usages.append(chunk.usage or Usage(0, 0))
                    if chunk.text or finish or chunk.logprobs:
                        yield self._event(
                            first + piece.index, chunk.text, finish, list(chunk.logprobs)
                        )
        if self._wishes.has_usage:
            usage = _sum(usages, self._wishes.num_answers)
            yield sse(self._head | {"choices": [], "usage": usage})
        yield DONE

    def _work(self, prompt: Prompt, num_tokens: int) -> Work:
        wishes, service = self._wishes, self._service

        def requests(opened: Opened) -> list[Request]:
            return [
                Request(
                    prompt=prompt,
                    max_tokens=num_tokens,
                    sampling=service.sampling(sampling),
                    stop=wishes.stop,
                    grammar=wishes.grammar,
                )
                for sampling in wishes.samplings(service.temperature(opened))
            ]

        return Work(
            model=self._model,
            requests=requests,
            num_answers=wishes.num_answers,
            priority=wishes.priority,
            timeout_s=wishes.timeout_s,
            form_field=wishes.form_field,
        )

    async def _echo(self, prompt: Prompt) -> Choice:
        """The prompt itself, with its log probabilities when they are wanted."""
        if not self._is_echoed:
            return Choice()
        num_top = self._wishes.sampling.num_logprobs

        def read(opened: Opened, cancellation: Cancellation) -> Choice:
            engine = opened.engine
            ids = engine.token_ids(prompt) if isinstance(prompt, str) else list(prompt)
            scored: list[Logprob] = []
            if num_top is not None and len(ids) > 1:
                scored = engine.logprobs(ids, num_top, cancellation)
            # Nothing precedes the first token, so it has no probability.
            logprobs = [] if num_top is None else [Logprob(ids[0], float("nan")), *scored]
            text = prompt if isinstance(prompt, str) else engine.text_of(ids)
            return Choice(text, logprobs=logprobs, usage=Usage(len(ids), 0))

        wishes = self._wishes
        return await self._service.call(
            self._model, read, priority=wishes.priority, timeout_s=wishes.timeout_s
        )

    def _event(self, index: int, text: str, finish: str | None, logprobs: list[Logprob]) -> bytes:
        return sse(self._head | {"choices": [self._choice(index, text, finish, logprobs)]})

    def _choice(
        self, index: int, text: str, finish: str | None, logprobs: list[Logprob]
    ) -> dict[str, Any]:
        form = None
        if self._wishes.sampling.num_logprobs is not None:
            form = self._logprobs(logprobs)
        return {"index": index, "text": text, "finish_reason": finish, "logprobs": form}

    def _logprobs(self, entries: list[Logprob]) -> dict[str, Any]:
        text_of = self._model.text_of
        texts = [text_of(one.token) for one in entries]
        offsets, offset = [], 0
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        tops = [{text_of(token): value for token, value in one.top} for one in entries]
        is_known = [one.logprob == one.logprob for one in entries]
        return {
            "tokens": texts,
            "token_logprobs": [
                one.logprob if known else None for one, known in zip(entries, is_known, strict=True)
            ],
            "top_logprobs": [
                top if known else None for top, known in zip(tops, is_known, strict=True)
            ],
            "text_offset": offsets,
        }


def _add(choice: Choice, piece: Piece) -> None:
    choice.text += piece.chunk.text
    choice.logprobs += piece.chunk.logprobs
    if piece.chunk.finish_reason is not None:
        choice.finish = ending(piece.chunk.finish_reason)
        choice.usage = piece.chunk.usage


def _sum(usages: list[Usage], num_answers: int) -> dict[str, Any]:
    """A prompt counts once, however many answers it has."""
    form = usage_form(usages)
    form["prompt_tokens"] = sum(usage.prompt_tokens for usage in usages[::num_answers])
    form["total_tokens"] = form["prompt_tokens"] + form["completion_tokens"]
    return form
