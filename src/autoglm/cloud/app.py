"""The cloud service as one ASGI application on one port: gRPC, Connect, REST and health.

Every path but `/healthz` needs a token, `/v1/token` an invitation or a renewal, which it exchanges
for one. `/healthz` says that the process lives, `/healthz?ready` that it takes work. `/v1/sync` and
`/v1/generate` are unary calls under short names, in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from autoglm.cloud.answers import Answers
from autoglm.cloud.auth import tenant_of
from autoglm.cloud.blocks import PostgresBlocks
from autoglm.cloud.database import Database
from autoglm.cloud.devices import Devices
from autoglm.cloud.hub import PostgresHub
from autoglm.cloud.services import (
    TENANT_HEADER,
    Application,
    BlockService,
    InferenceService,
    SyncService,
)
from autoglm.cloud.settings import CloudSettings
from autoglm.cloud.telemetry import LOGGER, Call, Telemetry
from autoglm.engine.base import Engine
from autoglm.errors import AutoGLMError, StorageError
from autoglm.protocol.rpc import INFERENCE_SERVICE, SYNC_SERVICE, path_of

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

HEALTH = "/healthz"
TOKENS = "/v1/token"
SHORT_NAMES = {
    "/v1/sync": path_of(SYNC_SERVICE, "Round"),
    "/v1/generate": path_of(INFERENCE_SERVICE, "Complete"),
}
COLLECT_EVERY_S = 3600.0
# How long a request that is refused may go on sending.
REFUSAL_S = 0.5


class CloudApp:
    """Builds the parts when the server starts and ends them in order when it stops."""

    def __init__(self, settings: CloudSettings, engine: Engine | None, model: str) -> None:
        """Without an engine the service synchronises only. Raises UsageError without a secret."""
        self.draining = asyncio.Event()
        self._settings = settings
        self._secret = settings.secret()
        self._engine = engine
        self._model = model
        self._telemetry = Telemetry()
        self._database: Database | None = None
        self._services: Application | None = None
        self._devices: Devices | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one event loop's lifespan or one request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            given: str = scope["path"]
            path = SHORT_NAMES.get(given, given)
            known = path if path in (HEALTH, TOKENS) or self._has(path) else "other"
            with self._telemetry.call(known) as call:
                await self._answer(scope, path, receive, _noting(send, call))

    async def _answer(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        if path == HEALTH:
            await self._health(send, is_readiness=scope["query_string"] == b"ready")
            return
        if path == TOKENS:
            await _take_in(receive)
            await self._grant(send, scope["headers"])
            return
        tenant = tenant_of(self._secret, scope["headers"])
        if tenant is None:
            await _take_in(receive)
            await _reply(send, 401, "a valid token is needed")
        elif self._services is None or not self._has(path):
            await _take_in(receive)
            await _reply(send, 404, "there is no such path")
        else:
            hidden = TENANT_HEADER.encode()
            headers = [(name, value) for name, value in scope["headers"] if name != hidden]
            headers.append((hidden, tenant.encode()))
            inner = {**scope, "path": path, "headers": headers}
            await self._services(inner, receive, send)

    async def _grant(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        try:
            granted = None if self._devices is None else await self._devices.grant(headers)
        except StorageError as err:
            await _reply(send, 503, str(err))
            return
        if granted is None:
            await _reply(send, 401, "an invitation or a renewal that is still good is needed")
        else:
            await _reply_json(send, 200, asdict(granted))

    async def _health(self, send: Send, *, is_readiness: bool) -> None:
        if is_readiness:
            if self.draining.is_set():
                await _reply(send, 503, "stopping")
                return
            try:
                await self._opened().check()
            except StorageError as err:
                await _reply(send, 503, str(err))
                return
        await _reply(send, 200, "ok")

    def _has(self, path: str) -> bool:
        return self._services is not None and path in self._services.paths

    def _opened(self) -> Database:
        if self._database is None:
            message = "the service has not started"
            raise StorageError(message)
        return self._database

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await receive()
            try:
                await self._start(stack)
            except AutoGLMError as err:
                await send({"type": "lifespan.startup.failed", "message": str(err)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        self._database = await Database.connect(settings)
        self._devices = Devices(
            self._database,
            self._secret,
            token_minutes=settings.token_minutes,
            renewal_days=settings.renewal_days,
        )
        stack.push_async_callback(self._database.close)
        hub = PostgresHub(self._database)
        inference = None
        if self._engine is not None:
            answers = Answers(
                self._engine,
                slots=settings.slots,
                queue=settings.queue,
                resume_s=settings.resume_s,
            )
            stack.push_async_callback(answers.close, settings.drain_s)
            inference = InferenceService(answers, self._model)
        collecting = asyncio.create_task(self._collect(hub))
        stack.callback(collecting.cancel)
        sync = SyncService(hub, self.draining)
        blocks = BlockService(PostgresBlocks(self._database))
        self._services = Application(sync, blocks, inference)

    async def _collect(self, hub: PostgresHub) -> None:
        """Forget old tombstones of every tenant, again and again."""
        while True:
            before = datetime.now(UTC) - timedelta(days=self._settings.horizon_days)
            try:
                for tenant in await self._opened().tenants():
                    await hub.collect(tenant, before)
            except StorageError as err:
                LOGGER.warning("old tombstones are kept: %s", err)
            await asyncio.sleep(COLLECT_EVERY_S)


def _noting(send: Send, call: Call) -> Send:
    async def noting(event: Event) -> None:
        if event["type"] == "http.response.start":
            call.status = event["status"]
        await send(event)

    return noting


async def _take_in(receive: Receive) -> None:
    """Read what a request sends: the server ends the connection if more comes after the reply."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFUSAL_S):
            while (await receive()).get("more_body"):
                pass


async def _reply(send: Send, status: int, text: str) -> None:
    await _reply_json(send, status, {"message": text})


async def _reply_json(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
