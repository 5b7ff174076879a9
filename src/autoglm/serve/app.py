"""Builds the service: routes, guard, models and the tasks that run beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from autoglm import __version__
from autoglm.config import Settings
from autoglm.errors import UsageError
from autoglm.serve.admission import Admission
from autoglm.serve.chat import ChatRoute
from autoglm.serve.completions import CompletionRoute
from autoglm.serve.errors import BusyError, RefusedError
from autoglm.serve.http import Handler, Json, endpoint, error_response
from autoglm.serve.models import Models
from autoglm.serve.ollama import OllamaRoutes
from autoglm.serve.pages import PageRoutes
from autoglm.serve.reload import Reloader
from autoglm.serve.saving import PageSaver
from autoglm.serve.security import App, Guard, Receive, Scope, Send, is_loopback, read_keys
from autoglm.serve.service import Service
from autoglm.serve.settings import ServeSettings
from autoglm.serve.texts import TextRoutes

LOOK_EVERY_S = 1.0
SMALL_BODY_BYTES = 16 * 1024
# Routes whose requests take a slot.
WORK = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
    }
)


def make_service(
    settings: Settings, serve: ServeSettings, saver: PageSaver | None = None
) -> Service:
    """The parts, nothing loaded yet. Raises ModelFileError, UsageError."""
    keep = None if serve.keep_alive_s < 0 else serve.keep_alive_s
    models = Models(
        settings,
        [Path(path) for path in serve.models],
        keep_alive_s=keep,
        memory_mib=serve.memory_mib,
        saver=saver,
    )
    return Service(serve, models, Admission(serve.slots, serve.queue))


def make_app(service: Service, reloader: Reloader | None = None) -> App:
    """The guarded application. Raises UsageError when it would be open to others without a key."""
    serve = service.settings
    keys = () if serve.api_key_file is None else read_keys(Path(serve.api_key_file))
    check_bind(serve, has_keys=bool(keys))
    app = Starlette(routes=_routes(service, reloader), lifespan=_lifespan(service, reloader))
    app.add_exception_handler(HTTPException, _no_route)
    return Guard(
        _Door(app, service),
        refuse=_refused,
        keys=keys,
        hosts=serve.hosts,
        is_local=is_loopback(serve.host),
    )


def check_bind(serve: ServeSettings, *, has_keys: bool) -> None:
    """Raise UsageError for an address that others reach, unless it is meant and has a key."""
    if is_loopback(serve.host):
        return
    if not serve.allow_remote:
        message = (
            f"host {serve.host} lets other machines in; if that is meant, "
            "give --allow-remote and --api-key-file"
        )
        raise UsageError(message)
    if not has_keys:
        message = f"host {serve.host} lets other machines in; give a key with --api-key-file FILE"
        raise UsageError(message)


def _routes(service: Service, reloader: Reloader | None) -> Sequence[Route]:
    texts = TextRoutes(service)
    ollama = OllamaRoutes(service, texts)
    pages = PageRoutes(service)

    async def health(_request: HttpRequest) -> Response:
        return Json({"status": "ok", "version": __version__})

    async def metrics(_request: HttpRequest) -> Response:
        text = service.metrics.text(service.gauges())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def openapi(_request: HttpRequest) -> Response:
        from autoglm.serve.openapi import document

        return Json(document([(method, path) for method, path, _ in handlers]))

    async def reload(_request: HttpRequest) -> Response:
        if reloader is None:
            message = "this service has no configuration file"
            raise UsageError(message)
        return Json(asdict(reloader.reload()))

    handlers: list[tuple[str, str, Handler]] = [  # they are tried in this order
        ("POST", "/v1/chat/completions", ChatRoute(service).__call__),
        ("GET", "/", pages.index),
        ("GET", "/console/status", pages.status),
        ("GET", "/console/{name}", pages.file),
        ("POST", "/config/reload", reload),
        ("GET", "/health", health),
        ("GET", "/metrics", metrics),
        ("GET", "/openapi.json", openapi),
        ("GET", "/v1/models", texts.models),
        ("GET", "/v1/models/{name:path}", texts.model),
        ("POST", "/v1/completions", CompletionRoute(service).__call__),
        ("POST", "/v1/embeddings", texts.embeddings),
        ("POST", "/tokenize", texts.tokenize),
        ("POST", "/detokenize", texts.detokenize),
        ("POST", "/api/chat", ollama.chat),
        ("POST", "/api/generate", ollama.generate),
        ("POST", "/api/embed", ollama.embed),
        ("POST", "/api/embeddings", ollama.embed),
        ("POST", "/api/show", ollama.show),
        ("GET", "/api/tags", ollama.tags),
        ("GET", "/api/ps", ollama.running),
        ("GET", "/api/version", ollama.version),
    ]
    return [
        Route(
            path,
            endpoint(handler, service.metrics, path),
            methods=[method],
        )
        for method, path, handler in handlers
    ]


class _Door:
    """Refuses at once what would be refused after its body was read and understood.

    Nothing is logged: in an overload that would cost more than the refusal.
    """

    def __init__(self, app: App, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand over to the application."""
        app = self._app
        if scope["type"] == "http" and scope["path"] in WORK and _is_small(scope):
            try:
                self._service.admission.check_room()
            except BusyError as err:
                route, refusal = scope["path"], error_response(err, scope["path"])
                status = str(refusal.status_code)
                self._service.metrics.count("requests_total", route=route, status=status)
                app = refusal
        await app(scope, receive, send)


def _is_small(scope: Scope) -> bool:
    """Whether a body is here already: an answer to one on its way is lost with the connection."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return length.isdigit() and int(length) <= SMALL_BODY_BYTES


def _lifespan(
    service: Service, reloader: Reloader | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        reaper = asyncio.create_task(_look_after(service, reloader))
        try:
            yield
        finally:
            reaper.cancel()
            with suppress(asyncio.CancelledError):
                await reaper
            await service.close()

    return lifespan


async def _look_after(service: Service, reloader: Reloader | None) -> None:
    """Unload models that nobody asked for in their time, and read a changed configuration."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        service.models.unload_idle()
        if reloader is not None:
            reloader.look()


def _refused(err: RefusedError, scope: Scope) -> App:
    response: App = error_response(err, scope["path"])
    return response


async def _no_route(request: HttpRequest, err: Exception) -> Response:
    status = err.status_code if isinstance(err, HTTPException) else 500
    text = f"there is no {request.method} {request.url.path[:100]} here"
    return error_response(RefusedError(text, status=status, code="unknown_route"), request.url.path)
