"""Runs the cloud service in this process until a signal: one port, HTTP/1.1 and HTTP/2, TLS."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable
from typing import Any, cast

import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError

from autoglm.cloud.app import CloudApp
from autoglm.cloud.http2 import use_orderly_connections
from autoglm.cloud.settings import CloudSettings
from autoglm.engine.base import Engine
from autoglm.errors import StorageError

STOPPING = (signal.SIGINT, signal.SIGTERM)
MAX_STREAMS = 1_000
KEEP_CONNECTION_S = 60
BACKLOG = 2_048
# How long a load balancer may take to see that the service is not ready any more.
NOTICE_S = 0.5


def run(
    settings: CloudSettings, engine: Engine | None, model: str, ready: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` gets the address. Raises what starting raises."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, engine, model, ready))


async def _run(
    settings: CloudSettings, engine: Engine | None, model: str, ready: Callable[[str], None]
) -> None:
    app = CloudApp(settings, engine, model)
    use_orderly_connections()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, app.draining.set)
    drain = asyncio.create_task(_drain(app, stopped))
    scheme = "https" if settings.certificate else "http"
    ready(f"{scheme}://{settings.host}:{settings.port}")
    try:
        # Hypercorn's types know its own events only.
        await serve(cast("Any", app), server_config(settings), shutdown_trigger=stopped.wait)
    except LifespanFailureError as err:
        message = f"the service cannot start: {err}"
        raise StorageError(message) from err
    finally:
        drain.cancel()


async def _drain(app: CloudApp, stopped: asyncio.Event) -> None:
    """First be not ready, then take no more connections."""
    await app.draining.wait()
    await asyncio.sleep(NOTICE_S)
    stopped.set()


def server_config(settings: CloudSettings) -> Config:
    """Hypercorn's settings for ours."""
    config = Config()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config.bind = [f"{host}:{settings.port}"]
    config.backlog = BACKLOG
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = settings.drain_s
    config.shutdown_timeout = settings.drain_s + 5
    config.keep_alive_timeout = KEEP_CONNECTION_S
    config.keep_alive_max_requests = 10**9
    config.h2_max_concurrent_streams = MAX_STREAMS
    config.include_server_header = False
    if settings.certificate:
        config.certfile, config.keyfile = settings.certificate, settings.key
    if settings.client_ca:
        config.ca_certs = settings.client_ca
        config.verify_mode = ssl.VerifyMode.CERT_REQUIRED
    return config
