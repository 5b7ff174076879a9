"""The console: static pages from the package, and the figures that they show."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from autoglm.serve.errors import RefusedError
from autoglm.serve.http import Json
from autoglm.serve.service import Service

DIRECTORY = Path(__file__).parent / "console"
INDEX = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline: a text that a model writes can never run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageRoutes:
    """Handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._files = {path.name: path for path in sorted(DIRECTORY.iterdir())}

    async def index(self, _request: HttpRequest) -> Response:
        """GET /."""
        return self._page(INDEX)

    async def file(self, request: HttpRequest) -> Response:
        """GET /console/NAME."""
        return self._page(request.path_params["name"])

    async def status(self, _request: HttpRequest) -> Response:
        """GET /console/status: present figures."""
        service = self._service
        gauges, metrics = service.gauges(), service.metrics
        figures: dict[str, Any] = {
            "running": gauges["requests_running"],
            "waiting": gauges["requests_waiting"],
            "slots": gauges["slots"],
            "queue_limit": gauges["queue_limit"],
            "resident_bytes": gauges["resident_bytes"],
            "uptime_s": gauges["uptime_seconds"],
            "kv_pages_held": gauges["kv_pages_held"],
            "kv_pages": gauges["kv_pages"],
            "threads": service.models.threads,
            "cpu_s": time.process_time(),
            "requests": metrics.value("answers_total"),
            "completion_tokens": metrics.value("generated_tokens_total"),
            "last": asdict(service.last) if service.last.model else None,
        }
        return Json(figures)

    def _page(self, name: str) -> Response:
        path = self._files.get(name)
        if path is None:
            message = "there is no such page"
            raise RefusedError(message, status=404, code="unknown_route")
        headers = {"content-security-policy": POLICY, "cache-control": "no-cache"}
        return Response(path.read_bytes(), media_type=KINDS[path.suffix], headers=headers)
