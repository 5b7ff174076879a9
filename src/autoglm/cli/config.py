"""Show and check the settings, or let a running service read them again."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoglm.cli.options import add_json_option
from autoglm.cli.output import print_json, print_text
from autoglm.config import config_path, load_settings
from autoglm.errors import StorageError, UsageError
from autoglm.serve.settings import load_serve_settings

TIMEOUT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "action",
        choices=("show", "check", "reload"),
        help="show the settings that count, check a file, or reload those of a running service",
    )
    parser.add_argument("--file", metavar="FILE", type=Path, help="instead of the usual file")
    parser.add_argument("--host", metavar="ADDRESS", help="of the service, for reload")
    parser.add_argument("--port", metavar="N", type=int, help="of the service, for reload")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    file = args.file or config_path(os.environ)
    if args.file is not None and not args.file.is_file():
        message = f"there is no file {args.file}"
        raise UsageError(message)
    if args.action == "reload":
        return _reload(args)
    settings = asdict(load_settings(path=args.file))
    serve = asdict(load_serve_settings({}, environ=os.environ, path=args.file))
    if args.action == "check":
        if args.json:
            print_json({"file": str(file), "ok": True})
        else:
            print_text(f"{file}: ok" if file.exists() else f"{file}: not there; defaults count")
    elif args.json:
        print_json({"file": str(file), **settings, "serve": serve})
    else:
        print_text("\n".join([f"# {file}", *_lines(settings), "", "[serve]", *_lines(serve)]))
    return 0


def _lines(values: dict[str, Any]) -> list[str]:
    """Settings as they could stand in the file; those without a value as comments."""
    lines = []
    for name, value in values.items():
        if value is None:
            lines.append(f"# {name} =")
        elif isinstance(value, bool):
            lines.append(f"{name} = {str(value).lower()}")
        elif isinstance(value, tuple):
            lines.append(f"{name} = [{', '.join(_quoted(item) for item in value)}]")
        else:
            lines.append(f"{name} = {_quoted(value) if isinstance(value, str) else value}")
    return lines


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _reload(args: argparse.Namespace) -> int:
    import http.client
    import json

    flags = {"host": args.host, "port": args.port}
    serve = load_serve_settings(flags, environ=os.environ, path=args.file)
    headers = {}
    if serve.api_key_file is not None:
        from autoglm.serve.security import read_keys

        headers["Authorization"] = f"Bearer {read_keys(Path(serve.api_key_file))[0].decode()}"
    connection = http.client.HTTPConnection(serve.host, serve.port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/config/reload", b"{}", headers)
        response = connection.getresponse()
        content = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as err:
        message = f"no service answers at {serve.host} port {serve.port}: {err}"
        raise StorageError(message) from err
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise UsageError(content["error"]["message"])
    if args.json:
        print_json(content)
    else:
        print_text(f"applied: {', '.join(content['applied']) or 'nothing changed'}")
        if content["needs_restart"]:
            print_text(f"needs a new start: {', '.join(content['needs_restart'])}")
    return 0
