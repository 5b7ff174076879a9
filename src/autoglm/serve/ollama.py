"""Ollama's interface: chat and generate as lines of JSON, and what its clients ask about models."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from autoglm import __version__
from autoglm.engine.call_reader import CallReader
from autoglm.errors import CancelledError
from autoglm.serve.answers import unless_gone
from autoglm.serve.chat import read_messages
from autoglm.serve.errors import FieldError
from autoglm.serve.fields import Fields
from autoglm.serve.http import NDJSON, Json, dump, read_body, stream
from autoglm.serve.models import LATEST, Opened, ServedModel
from autoglm.serve.parse import ANY_OBJECT, check_forms_work, read_stop, schema_grammar
from autoglm.serve.service import DEFAULT_KEEP, Service, Work
from autoglm.serve.texts import TextRoutes, read_inputs
from autoglm.serve.tool_fields import NO_TOOLS, ToolWishes, read_tools
from autoglm.types import (
    MAX_SEED,
    MAX_TOKENS,
    Cancellation,
    Chunk,
    Message,
    Request,
    SamplingParams,
    ToolCall,
)

_DURATION = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
NS = 10**9


class OllamaRoutes:
    """Handlers over one service."""

    def __init__(self, service: Service, texts: TextRoutes) -> None:
        self._service = service
        self._texts = texts

    async def chat(self, request: HttpRequest) -> Response:
        """POST /api/chat."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model"))
        keep = read_keep_alive(body)
        if not body.values.get("messages"):
            return await self._only_load(request, model, keep, {"message": _message("")})
        tools = read_tools(body)
        reader = CallReader(model.tool_form, tools.tools) if tools.may_call else None
        work = self._work(body, model, keep, messages=read_messages(body), tools=tools)
        lines = self._lines(work, lambda text: {"message": _message(text)}, reader)
        return await self._respond(request, body, lines)

    async def generate(self, request: HttpRequest) -> Response:
        """POST /api/generate: one prompt, with the chat template unless `raw`."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model"))
        keep = read_keep_alive(body)
        prompt, system = body.text("prompt", ""), body.text("system", "")
        if not prompt:
            return await self._only_load(request, model, keep, {"response": ""})
        if body.boolean("raw"):
            work = self._work(body, model, keep, prompt=prompt)
        else:
            before = (Message("system", system),) if system else ()
            work = self._work(body, model, keep, messages=(*before, Message("user", prompt)))
        lines = self._lines(work, lambda text: {"response": text}, None)
        return await self._respond(request, body, lines)

    async def embed(self, request: HttpRequest) -> Response:
        """POST /api/embed, and the older /api/embeddings with one prompt."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model"))
        is_old = request.url.path.endswith("embeddings")
        inputs = read_inputs(body, "prompt" if is_old else "input")
        vectors, count = await unless_gone(self._texts.embed(model, inputs, None), request.receive)
        if is_old:
            return Json({"embedding": vectors[0]})
        return Json({"model": model.name, "embeddings": vectors, "prompt_eval_count": count})

    async def tags(self, _request: HttpRequest) -> Response:
        """GET /api/tags: the models there are."""
        return Json({"models": [_tag(model) for model in self._service.models.served.values()]})

    async def running(self, _request: HttpRequest) -> Response:
        """GET /api/ps: the models in memory."""
        now = time.monotonic()
        found = []
        for model in self._service.models.served.values():
            if not model.is_loaded:
                continue
            left = 10**9 if model.expires_at is None else max(0.0, model.expires_at - now)
            until = _stamp(time.time() + min(left, 10**9))
            found.append(_tag(model) | {"expires_at": until, "size_vram": 0})
        return Json({"models": found})

    async def show(self, request: HttpRequest) -> Response:
        """POST /api/show: what is known of a model."""
        body = await read_body(request)
        name = body.text("model", "") or body.text("name")
        model = self._service.models.find(name)
        config, family = model.bundle.config, model.bundle.architecture
        return Json(
            {
                "modelfile": f"FROM {model.name}",
                "parameters": "",
                "template": model.bundle.chat_template or "",
                "details": _details(model),
                "model_info": {
                    "general.architecture": family,
                    f"{family}.context_length": model.context_tokens,
                    f"{family}.embedding_length": config.hidden_size,
                    f"{family}.block_count": config.num_layers,
                    f"{family}.attention.head_count": config.num_heads,
                    f"{family}.attention.head_count_kv": config.num_kv_heads,
                },
                "capabilities": ["completion", "embedding", "tools"],
                "modified_at": _stamp(model.created),
            }
        )

    async def version(self, _request: HttpRequest) -> Response:
        """GET /api/version."""
        return Json({"version": __version__})

    async def _only_load(
        self, request: HttpRequest, model: ServedModel, keep: float | None, part: dict[str, Any]
    ) -> Response:
        """A request without a prompt loads the model, or with `keep_alive` 0 gives it back."""

        def nothing(_opened: Opened, _cancellation: Cancellation) -> None:
            """Being called is enough: the model is in memory."""

        reason = "load"
        if keep == 0:
            reason = "unload"
            if model.is_idle:
                model.unload()
        else:
            call = self._service.call(model, nothing, keep_alive_s=keep)
            await unless_gone(call, request.receive)
        end = {"created_at": _stamp(time.time()), "done": True, "done_reason": reason}
        return Json({"model": model.name} | part | end)

    def _work(
        self,
        body: Fields,
        model: ServedModel,
        keep: float | None,
        *,
        messages: tuple[Message, ...] = (),
        prompt: str | None = None,
        tools: ToolWishes = NO_TOOLS,
    ) -> Work:
        options = body.inner("options") or Fields({}, "options")
        temperature = options.number("temperature", 0, 100)
        sampling = _sampling(options)
        num_tokens = options.integer("num_predict", -2, MAX_TOKENS)
        stop = read_stop(options)
        is_any = body.values.get("format") == "json"
        grammar = ANY_OBJECT if is_any else schema_grammar(body, "format")
        if grammar is not None:
            check_forms_work("format")
        service = self._service

        def requests(opened: Opened) -> list[Request]:
            own = service.temperature(opened) if temperature is None else temperature
            return [
                Request(
                    messages=messages,
                    prompt=prompt,
                    max_tokens=num_tokens if num_tokens and num_tokens > 0 else None,
                    sampling=service.sampling(sampling(own)),
                    stop=stop,
                    grammar=None if tools.may_call else grammar,
                    tools=tools.tools,
                )
            ]

        form_field = "tools" if tools.may_call else "format"
        return Work(model=model, requests=requests, keep_alive_s=keep, form_field=form_field)

    async def _respond(
        self, request: HttpRequest, body: Fields, lines: AsyncGenerator[dict[str, Any], None]
    ) -> Response:
        if body.boolean("stream", default=True):
            return await stream(request, _dumped(lines), NDJSON)

        async def whole() -> dict[str, Any]:
            found: list[dict[str, Any]] = []
            async with aclosing(lines):
                async for line in lines:
                    found.append(line)
            return _joined(found)

        return Json(await unless_gone(whole(), request.receive))

    async def _lines(
        self, work: Work, part: Callable[[str], dict[str, Any]], reader: CallReader | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        start, first = time.perf_counter(), 0.0
        head = {"model": work.model.name}
        async with aclosing(self._service.pieces(work)) as pieces:
            async for piece in pieces:
                chunk = piece.chunk
                first = first or time.perf_counter()
                text, calls = _split(reader, chunk)
                line = head | {"created_at": _stamp(time.time())} | part(text)
                if calls:
                    line["message"]["tool_calls"] = [_call_form(call) for call in calls]
                if chunk.finish_reason is None:
                    if text or calls:
                        yield line | {"done": False}
                    continue
                if chunk.finish_reason == "cancelled":
                    message = "the request was cancelled"
                    raise CancelledError(message)
                yield line | _ending(chunk, start, first)


def _split(reader: CallReader | None, chunk: Chunk) -> tuple[str, list[ToolCall]]:
    """The text and the calls of a chunk."""
    if reader is None:
        return chunk.text, []
    text, calls = reader.push(chunk.text)
    if chunk.finish_reason is not None:
        rest, late = reader.flush()
        return text + rest, calls + late
    return text, calls


def _ending(chunk: Chunk, start: float, first: float) -> dict[str, Any]:
    """What the last line says besides."""
    end = time.perf_counter()
    usage, result = chunk.usage, chunk.result
    return {
        "done": True,
        "done_reason": chunk.finish_reason,
        "total_duration": int((end - start) * NS),
        "load_duration": int(result.timings.load_ms * 1e6) if result else 0,
        "prompt_eval_count": usage.prompt_tokens if usage else 0,
        "prompt_eval_duration": int((first - start) * NS),
        "eval_count": usage.completion_tokens if usage else 0,
        "eval_duration": max(1, int((end - first) * NS)),
    }


def _joined(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """All lines of an answer as one."""
    whole = lines[-1]
    if "message" not in whole:
        return whole | {"response": "".join(line["response"] for line in lines)}
    message = _message("".join(line["message"]["content"] for line in lines))
    if calls := [call for line in lines for call in line["message"].get("tool_calls", [])]:
        message["tool_calls"] = calls
    return whole | {"message": message}


def _call_form(call: ToolCall) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": json.loads(call.arguments)}}


def read_keep_alive(body: Fields) -> float | None:
    """Seconds, None for ever, DEFAULT_KEEP when left out. Raises FieldError."""
    value = body.values.get("keep_alive")
    if value is None:
        return DEFAULT_KEEP
    match = _DURATION.fullmatch(str(value)) if not isinstance(value, bool | list | dict) else None
    if match is None:
        message = "keep_alive is no time; expected seconds or a text such as '5m'"
        raise FieldError(message, field="keep_alive")
    seconds = float(match[1]) * _UNITS[match[2]]
    return None if seconds < 0 else seconds


def _sampling(options: Fields) -> Callable[[float], SamplingParams]:
    """Ollama's options as sampling, but for the temperature."""
    top_p, top_k = options.number("top_p", 0, 1), options.integer("top_k", 0, 2**31 - 1)
    min_p = options.number("min_p", 0, 1)
    repeat = options.number("repeat_penalty", 1e-3, 1e3)
    presence = options.number("presence_penalty", -2, 2) or 0.0
    frequency = options.number("frequency_penalty", -2, 2) or 0.0
    seed = options.integer("seed", -(2**63), MAX_SEED)

    def sampling(temperature: float) -> SamplingParams:
        return SamplingParams(
            temperature=temperature,
            top_k=top_k,
            top_p=None if top_p is None else max(top_p, 1e-9),
            min_p=min_p,
            repetition_penalty=repeat,
            presence_penalty=presence,
            frequency_penalty=frequency,
            seed=None if seed is None else seed % (MAX_SEED + 1),
        )

    return sampling


async def _dumped(lines: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for line in lines:
            yield dump(line) + b"\n"


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _details(model: ServedModel) -> dict[str, Any]:
    family = model.bundle.architecture
    return {
        "parent_model": "",
        "format": "autoglm",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": model.bundle.weights,
    }


def _tag(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name + LATEST,
        "model": model.name + LATEST,
        "modified_at": _stamp(model.created),
        "size": model.bundle.weights_bytes,
        "digest": "",
        "details": _details(model),
    }
