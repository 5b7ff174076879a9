"""Run the cloud service: synchronisation over PostgreSQL, and answers of a larger model.

Every setting is also a variable AUTOGLM_CLOUD_NAME, such as AUTOGLM_CLOUD_DATABASE.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from autoglm.cli.options import add_model_option, add_threads_option, whole_number
from autoglm.cli.output import note, print_text
from autoglm.cloud.settings import CloudSettings, load_cloud_settings
from autoglm.config import load_settings
from autoglm.errors import UsageError, require

EXTRA = "cloud"
ACTIONS = {
    "serve": "answer devices until interrupted",
    "migrate": "bring the schema up to date, as the owner of the database",
    "token": "print a token for a tenant",
}
DEFAULT_DAYS = 30.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    actions = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=list(ACTIONS), metavar="ACTION", help=actions)
    parser.add_argument("--database", metavar="URL", help="postgresql://ROLE@HOST/NAME")
    parser.add_argument("--secret-file", metavar="FILE", help="the key that signs tokens")
    parser.add_argument("--host", metavar="ADDRESS", help="address to bind (default: 127.0.0.1)")
    parser.add_argument(
        "--port", metavar="N", type=whole_number(1), help="port to bind (default: 8443)"
    )
    parser.add_argument("--certificate", metavar="FILE", help="TLS certificate, in PEM")
    parser.add_argument("--key", metavar="FILE", help="its key, in PEM")
    parser.add_argument(
        "--client-ca", metavar="FILE", help="let in only clients with a certificate of this CA"
    )
    parser.add_argument(
        "--no-model", action="store_true", help="synchronise only, without answering"
    )
    add_model_option(parser)
    add_threads_option(parser)
    parser.add_argument("--tenant", metavar="NAME", help="with token: who it lets in")
    parser.add_argument(
        "--days",
        metavar="N",
        type=float,
        default=DEFAULT_DAYS,
        help=f"with token: how long it lasts (default: {DEFAULT_DAYS:g})",
    )


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    names = ("database", "secret_file", "host", "port", "certificate", "key", "client_ca")
    flags = {name: getattr(args, name) for name in names}
    settings = load_cloud_settings(flags, environ=os.environ)
    if args.action == "token":
        return _token(settings, args.tenant, args.days)
    if not settings.database:
        message = "no database: give --database postgresql://ROLE@HOST/NAME"
        raise UsageError(message)
    require("asyncpg", extra=EXTRA)
    if args.action == "migrate":
        from autoglm.cloud.database import migrate

        for name in asyncio.run(migrate(settings.database)):
            print_text(name)
        return 0
    return _serve(settings, args)


def _token(settings: CloudSettings, tenant: str | None, days: float) -> int:
    if tenant is None:
        message = "token needs --tenant NAME"
        raise UsageError(message)
    require("jwt", extra=EXTRA)
    from autoglm.cloud.auth import make_token

    print_text(make_token(settings.secret(), tenant, days=days))
    return 0


def _serve(settings: CloudSettings, args: argparse.Namespace) -> int:
    for module in ("connectrpc", "hypercorn", "jwt", "opentelemetry"):
        require(module, extra=EXTRA)
    from autoglm.cloud.run import run as serve
    from autoglm.cloud.telemetry import SCOPE, export_by_environment
    from autoglm.runtime import Runtime
    from autoglm.types import ModelSize

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger(SCOPE)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    export_by_environment()
    runtime, model = None, ""
    if not args.no_model:
        # Answers are not shared between tenants, not even by their speed.
        flags = {"model": args.model, "threads": args.threads, "cache_mib": 0}
        runtime = Runtime(load_settings(flags))
        runtime.load()
        model = Path(args.model).resolve().name if args.model else ModelSize.LITE.value
    if settings.host not in LOOPBACK and not settings.certificate:
        note("without --certificate tokens and answers can be read on the way")
    serve(settings, runtime, model, lambda address: note(f"serving on {address}"))
    return 0
