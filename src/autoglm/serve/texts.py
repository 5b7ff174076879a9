"""Routes about texts and tokens: embeddings, tokenize, detokenize, and the list of models."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Any, TypeGuard

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from autoglm.serve.answers import unless_gone
from autoglm.serve.fields import Fields
from autoglm.serve.http import Json, read_body
from autoglm.serve.models import Opened, ServedModel
from autoglm.serve.parse import read_timeout
from autoglm.serve.service import Service
from autoglm.types import MAX_TOKEN_ID, Cancellation, Message, Request

MAX_INPUTS = 256
MAX_IDS = 2**20
Input = str | list[int]


class TextRoutes:
    """Handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def embeddings(self, request: HttpRequest) -> Response:
        """POST /v1/embeddings: the mean of the last hidden states, of length 1."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model", ""))
        inputs = read_inputs(body, "input")
        form = body.choice("encoding_format", ("float", "base64"), "float")
        timeout_s = read_timeout(body, request.headers.get("x-request-timeout"))
        found = self.embed(model, inputs, timeout_s)
        vectors, num_tokens = await unless_gone(found, request.receive)
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, form)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return Json({"object": "list", "data": data, "model": model.name, "usage": usage})

    async def embed(
        self, model: ServedModel, inputs: list[Input], timeout_s: float | None
    ) -> tuple[list[list[float]], int]:
        """A vector for each input, and how many tokens were read."""

        def embed(opened: Opened, cancellation: Cancellation) -> tuple[list[list[float]], int]:
            engine = opened.engine
            tokens = [engine.token_ids(i) if isinstance(i, str) else i for i in inputs]
            vectors = [_unit(engine.embed(ids, cancellation)) for ids in tokens]
            return vectors, sum(map(len, tokens))

        return await self._service.call(model, embed, timeout_s=timeout_s)

    async def tokenize(self, request: HttpRequest) -> Response:
        """POST /tokenize: the token ids of a `prompt`, or of `messages` with their template."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model", ""))
        messages = None
        if not body.has("prompt"):
            from autoglm.serve.chat import read_messages

            messages = read_messages(body)
        text = body.text("prompt", "")

        def tokenize(opened: Opened, _: Cancellation) -> tuple[list[int], int]:
            engine = opened.engine
            ids = engine.token_ids(text) if messages is None else _template_ids(opened, messages)
            return ids, engine.context_tokens

        ids, most = await unless_gone(self._service.call(model, tokenize), request.receive)
        return Json({"tokens": ids, "count": len(ids), "max_model_len": most})

    async def detokenize(self, request: HttpRequest) -> Response:
        """POST /detokenize: the text of `tokens`."""
        body = await read_body(request)
        model = self._service.models.find(body.text("model", ""))
        ids = body.values.get("tokens")
        if not is_ids(ids):
            body.fail("tokens", "a list of token ids")

        def detokenize(opened: Opened, _: Cancellation) -> str:
            return opened.engine.text_of(ids)

        call = self._service.call(model, detokenize)
        return Json({"prompt": await unless_gone(call, request.receive)})

    async def models(self, _request: HttpRequest) -> Response:
        """GET /v1/models."""
        served = self._service.models.served.values()
        return Json({"object": "list", "data": [_model_form(model) for model in served]})

    async def model(self, request: HttpRequest) -> Response:
        """GET /v1/models/NAME."""
        return Json(_model_form(self._service.models.find(request.path_params["name"])))


def read_inputs(body: Fields, name: str) -> list[Input]:
    """A text, token ids, or a list of either. Raises FieldError."""
    value = body.values.get(name)
    inputs = [value] if isinstance(value, str) or is_ids(value) else value
    if (
        not isinstance(inputs, list)
        or not 0 < len(inputs) <= MAX_INPUTS
        or not all(_is_input(item) for item in inputs)
    ):
        body.fail(name, f"a text that is not empty, token ids, or at most {MAX_INPUTS} of them")
    return inputs


def _is_input(value: object) -> bool:
    return bool(value) and (isinstance(value, str) or is_ids(value))


def is_ids(value: object) -> TypeGuard[list[int]]:
    """Whether a value is a list of token ids, and not too long."""
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_IDS
        and set(map(type, value)) == {int}
        and min(value) >= 0
        and max(value) <= MAX_TOKEN_ID
    )


def _template_ids(opened: Opened, messages: tuple[Message, ...]) -> list[int]:
    return opened.engine.prompt_ids(Request(messages=messages))


def _unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else vector


def _encoded(vector: list[float], form: str) -> Any:
    if form == "float":
        return vector
    return base64.b64encode(array("f", vector).tobytes()).decode()


def _model_form(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "autoglm",
        "max_model_len": model.context_tokens,
        "is_loaded": model.is_loaded,
    }
