"""Answer the requests of other programs, in the manner of OpenAI's and Ollama's services."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.cli.options import add_model_option, add_threads_option, whole_number
from autoglm.cli.output import note
from autoglm.config import Settings, config_path, load_settings
from autoglm.errors import UsageError, require
from autoglm.serve.settings import ServeSettings, load_serve_settings

if TYPE_CHECKING:
    import uvicorn

    from autoglm.serve.saving import PageSaver
    from autoglm.serve.security import App as Application

EXTRA = "serve"
SHUTDOWN_S = 5
KEEP_CONNECTION_S = 30
BACKLOG = 2048
# How long a thread computes in Python while others want to. Passes ask grammars in between, and a
# thread that reads a large body must not keep the event loop.
SWITCH_S = 0.0005
# With one for each thread that ever answered, memory grew by 50 MiB in 10,000 requests.
MOST_HEAPS = 2
STOPPING = (signal.SIGINT, signal.SIGTERM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_option(parser)
    parser.add_argument("--host", metavar="ADDRESS", help="address to bind (default: 127.0.0.1)")
    parser.add_argument(
        "--port", metavar="N", type=whole_number(0), help="port, 0 for a free one (default: 8080)"
    )
    parser.add_argument(
        "--api-key-file", metavar="FILE", help="keys that requests must bring, one a line"
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        default=None,
        help="let other machines in; needs --host and --api-key-file",
    )
    parser.add_argument(
        "--slots", metavar="N", type=whole_number(1), help="requests at once (default: 8)"
    )
    parser.add_argument(
        "--queue", metavar="N", type=whole_number(0), help="requests that may wait (default: 32)"
    )
    parser.add_argument(
        "--kv-mib",
        metavar="N",
        type=whole_number(0),
        help="keep so much of what was read on disk, sealed by a key in the vault (default: 0)",
    )
    parser.add_argument("--vault", metavar="DIR", help="directory of the vault (default: your own)")
    add_threads_option(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    flags = {
        "host": args.host,
        "port": args.port,
        "api_key_file": args.api_key_file,
        "allow_remote": args.allow_remote,
        "slots": args.slots,
        "queue": args.queue,
        "kv_mib": args.kv_mib,
        "vault": args.vault,
    }

    def load() -> tuple[Settings, ServeSettings]:
        settings = load_settings({"model": args.model, "threads": args.threads})
        return settings, load_serve_settings(flags, environ=os.environ)

    settings, serve = load()
    require("starlette", extra=EXTRA)
    require("uvicorn", extra=EXTRA)
    from autoglm._core import limit_heaps
    from autoglm.engine.grammar import is_available
    from autoglm.serve.app import make_app, make_service
    from autoglm.serve.reload import Reloader

    if not is_available():
        note("llguidance is not installed: requests with tools or a form of answers are refused")
    _log_to_stderr(serve)
    _allow_many_sockets()
    sys.setswitchinterval(SWITCH_S)
    limit_heaps(MOST_HEAPS)
    with _page_saver(serve) as saver:
        service = make_service(settings, serve, saver)
        reloader = Reloader(service, load, config_path(os.environ))
        return _serve(make_app(service, reloader), serve)


@contextmanager
def _page_saver(serve: ServeSettings) -> Iterator[PageSaver | None]:
    """What keeps KV caches on disk, if that is wanted. Raises what opening the vault raises."""
    if not serve.kv_mib:
        yield None
        return
    require("cryptography", extra="vault")
    from autoglm.cli.passphrase import ask_passphrase
    from autoglm.privacy.vault.opening import open_vault
    from autoglm.privacy.vault.places import VaultHome
    from autoglm.serve.saving import PageSaver

    home = VaultHome.find(os.environ, None if serve.vault is None else Path(serve.vault))
    with open_vault(home, ask_passphrase, accept_rollback=False) as vault:
        yield PageSaver(vault, home.directory / "kv", max_bytes=serve.kv_mib * 2**20)


def _allow_many_sockets() -> None:
    """As many open files as the system lets this process have: idle clients hold one each."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _serve(app: Application, serve: ServeSettings) -> int:
    import socket

    import uvicorn

    from autoglm.serve.wire import BoundedProtocol

    config = uvicorn.Config(
        app,
        host=serve.host,
        port=serve.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
        timeout_keep_alive=KEEP_CONNECTION_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
    )
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((serve.host, serve.port))
        except OSError as err:
            message = f"cannot listen on {serve.host} port {serve.port}: {err.strerror or err}"
            raise UsageError(message) from err
        listener.listen(BACKLOG)  # from now on clients can connect
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        server = uvicorn.Server(config)
        gc.freeze()  # what is there by now stays; collections need not look at it
        with _stop_by_signal(server):
            note(f"serving on http://{shown}:{port}")
            server.run(sockets=[listener])
    return 0


@contextmanager
def _stop_by_signal(server: uvicorn.Server) -> Iterator[None]:
    """Signals stop the service in order.

    The server listens to them itself while it runs, and raises them once more when it is done; one
    that comes before must not be lost.
    """

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    previous = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _log_to_stderr(serve: ServeSettings) -> None:
    """One line for every request; never a prompt."""
    from autoglm.serve.reload import set_log_level

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger("autoglm.serve").addHandler(handler)
    set_log_level(serve)
