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
from autoglm.engine.base import Engine
from autoglm.errors import UsageError, require
from autoglm.types import ModelSize

EXTRA = "cloud"
ACTIONS = {
    "serve": "answer devices until interrupted",
    "migrate": "bring the schema up to date, as the owner of the database",
    "deploy": "start the model on a Ray cluster",
    "token": "print a token for a tenant",
    "invite": "print an invitation for one device of a tenant, and the device's id",
    "revoke": "give a device no more tokens",
    "enrol": "on a device: turn an invitation, read from standard input, into its credentials",
}
DEFAULT_DAYS = 30.0
DEFAULT_MINUTES = 15.0
MAX_INVITATION = 4_096
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
    engine = parser.add_mutually_exclusive_group()
    engine.add_argument(
        "--upstream",
        metavar="URL",
        help="answers come from a server with OpenAI's interface, as http://host:8000/v1",
    )
    engine.add_argument(
        "--ray", metavar="ADDRESS", help="answers come from what deploy started on this cluster"
    )
    parser.add_argument("--upstream-model", metavar="NAME", help="the model's name there")
    parser.add_argument("--upstream-key", metavar="FILE", help="the key of that server")
    parser.add_argument(
        "--replicas", metavar="N", type=whole_number(1), default=1, help="with deploy: processes"
    )
    parser.add_argument("--tenant", metavar="NAME", help="with token: who it lets in")
    parser.add_argument(
        "--days",
        metavar="N",
        type=float,
        default=DEFAULT_DAYS,
        help=f"with token: how long it lasts (default: {DEFAULT_DAYS:g})",
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=float,
        default=DEFAULT_MINUTES,
        help=f"with invite: how long it can be used (default: {DEFAULT_MINUTES:g})",
    )
    parser.add_argument("--device", metavar="ID", help="with revoke: which device")
    parser.add_argument("--address", metavar="URL", help="with enrol: where the service is")
    parser.add_argument(
        "--authority", metavar="FILE", help="with enrol: the CA of the service, in PEM"
    )


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    names = ("database", "secret_file", "host", "port", "certificate", "key", "client_ca")
    flags = {name: getattr(args, name) for name in names}
    settings = load_cloud_settings(flags, environ=os.environ)
    if args.action == "enrol":
        return _enrol(args)
    if args.action in ("token", "invite"):
        return _token(settings, args)
    if args.action == "deploy":
        return _deploy(settings, args)
    if not settings.database:
        message = "no database: give --database postgresql://ROLE@HOST/NAME"
        raise UsageError(message)
    require("asyncpg", extra=EXTRA)
    if args.action == "migrate":
        from autoglm.cloud.database import migrate

        for name in asyncio.run(migrate(settings.database)):
            print_text(name)
        return 0
    if args.action == "revoke":
        return asyncio.run(_revoke(settings, args))
    return _serve(settings, args)


def _token(settings: CloudSettings, args: argparse.Namespace) -> int:
    if args.tenant is None:
        message = f"{args.action} needs --tenant NAME"
        raise UsageError(message)
    require("jwt", extra=EXTRA)
    if args.action == "token":
        from autoglm.cloud.auth import make_token

        print_text(make_token(settings.secret(), args.tenant, days=args.days))
        return 0
    from autoglm.cloud.devices import make_invitation

    invitation, device = make_invitation(settings.secret(), args.tenant, minutes=args.minutes)
    print_text(invitation)
    note(f"for the device {device}")
    return 0


async def _revoke(settings: CloudSettings, args: argparse.Namespace) -> int:
    if args.tenant is None or args.device is None:
        message = "revoke needs --tenant NAME and --device ID"
        raise UsageError(message)
    from autoglm.cloud.database import Database
    from autoglm.cloud.devices import revoke

    database = await Database.connect(settings)
    try:
        if not await revoke(database, args.tenant, args.device):
            message = f"tenant {args.tenant} has no device {args.device}"
            raise UsageError(message)
    finally:
        await database.close()
    return 0


def _enrol(args: argparse.Namespace) -> int:
    """Exchange the invitation and keep what came for it."""
    from autoglm.protocol.credentials import CredentialFile, Credentials, credentials_path

    if args.address is None:
        message = "enrol needs --address URL"
        raise UsageError(message)
    invitation = sys.stdin.readline(MAX_INVITATION).strip()
    if not invitation.isascii() or not invitation:
        message = "enrol reads an invitation from standard input: autoglm cloud invite prints one"
        raise UsageError(message)
    empty = Credentials(
        address=args.address,
        token="",
        renewal="",
        authority=_absolute(args.authority),
        certificate=_absolute(args.certificate),
        key=_absolute(args.key),
    )
    path = credentials_path(os.environ)
    CredentialFile(path).save(empty.exchanged(invitation))
    note(f"enrolled; the credentials are in {path}")
    return 0


def _deploy(settings: CloudSettings, args: argparse.Namespace) -> int:
    if args.ray is None:
        message = "deploy needs --ray ADDRESS"
        raise UsageError(message)
    from autoglm.cloud.ray_engine import deploy

    flags = {"model": _absolute(args.model), "threads": args.threads}
    threads = args.threads or 1
    deploy(args.ray, flags, replicas=args.replicas, slots=settings.slots, threads=threads)
    return 0


def _engine(args: argparse.Namespace) -> tuple[Engine, str]:
    """What answers, and the name of its model."""
    name = Path(args.model).resolve().name if args.model else ModelSize.LITE.value
    if args.ray is not None:
        from autoglm.cloud.ray_engine import RayEngine

        return RayEngine(args.ray), name
    if args.upstream is not None:
        from autoglm.cloud.upstream import UpstreamEngine

        if args.upstream_model is None:
            message = "--upstream needs --upstream-model NAME"
            raise UsageError(message)
        key = _key(args.upstream_key)
        return UpstreamEngine(args.upstream, args.upstream_model, key=key), args.upstream_model
    from autoglm.runtime import Runtime

    # Answers are not shared between tenants, not even by their speed.
    flags = {"model": args.model, "threads": args.threads, "cache_mib": 0, "offline": True}
    runtime = Runtime(load_settings(flags))
    runtime.load()
    return runtime, name


def _key(path: str | None) -> str | None:
    try:
        return None if path is None else Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        message = f"{path}: {err}"
        raise UsageError(message) from err


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _serve(settings: CloudSettings, args: argparse.Namespace) -> int:
    for module in ("connectrpc", "hypercorn", "jwt", "opentelemetry"):
        require(module, extra=EXTRA)
    from autoglm.cloud.run import run as serve
    from autoglm.cloud.telemetry import SCOPE, export_by_environment

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger(SCOPE)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    export_by_environment()
    engine, model = (None, "") if args.no_model else _engine(args)
    if settings.host not in LOOPBACK and not settings.certificate:
        note("without --certificate tokens and answers can be read on the way")
    serve(settings, engine, model, lambda address: note(f"serving on {address}"))
    return 0
