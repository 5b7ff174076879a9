"""Show what of a text would leave the device, check the log of what left, or print the policy."""

from __future__ import annotations

import argparse
import json
import os
from collections import deque
from pathlib import Path

from autoglm.cli.options import add_json_option, whole_number
from autoglm.cli.output import note, print_json, print_text
from autoglm.errors import PrivacyError, UsageError
from autoglm.inputs.text import read_text

ACTIONS = {
    "check": "print what of FILE would leave the device in a request; nothing is sent or logged",
    "audit": "check that the log of what left is whole",
    "table": "print what is processed here and what there, from the policy",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    actions = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=list(ACTIONS), metavar="ACTION", help=actions)
    parser.add_argument("file", nargs="?", metavar="FILE", help="with check: a text, - for stdin")
    parser.add_argument(
        "--policy", metavar="FILE", type=Path, help="policy (default: the one of the package)"
    )
    parser.add_argument(
        "--log", metavar="FILE", type=Path, help="with audit: the log (default: yours)"
    )
    parser.add_argument(
        "--last", metavar="N", type=whole_number(1), help="with audit: print the last N entries too"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do one action."""
    if (args.file is not None) != (args.action == "check"):
        message = "check needs a FILE, and only check"
        raise UsageError(message)
    match args.action:
        case "check":
            _check(args)
        case "audit":
            _audit(args)
        case "table":
            _table(args)
    return 0


def _check(args: argparse.Namespace) -> None:
    from autoglm.privacy.boundary import Boundary
    from autoglm.privacy.key_file import SECRET_BYTES
    from autoglm.privacy.pii.detect import Detector
    from autoglm.privacy.policy import load_policy

    text = read_text(args.file)
    # Hashes shown here are of a throw-away key: the real ones must not be collected by asking.
    boundary = Boundary(load_policy(args.policy), Detector(), os.urandom(SECRET_BYTES), None)
    departure = boundary.leave("inference", {"text": text})
    if args.json:
        print_json({"text": departure.payload.get("text"), "removed": departure.removed})
        return
    print_text(str(departure.payload.get("text", "")), end="")
    removed = ", ".join(f"{count} {kind}" for kind, count in sorted(departure.removed.items()))
    note(f"replaced: {removed or 'nothing'}")


def _audit(args: argparse.Namespace) -> None:
    from autoglm.privacy.audit import AuditLog
    from autoglm.privacy.boundary import BoundaryPaths
    from autoglm.privacy.key_file import key_for, read_secret

    paths = BoundaryPaths.find(os.environ)
    path = args.log or paths.log
    try:
        secret = read_secret(paths.secret)
    except FileNotFoundError as err:
        if path.exists():
            message = f"{paths.secret}: the key of the log is missing, it cannot be checked"
            raise PrivacyError(message) from err
        _report(args, path, 0, [])
        return
    log = AuditLog(path, key_for(secret, "audit"))
    num_entries = log.verify()
    last = deque(log.entries(), maxlen=args.last) if args.last else []
    _report(args, path, num_entries, list(last))


def _report(
    args: argparse.Namespace, path: Path, num_entries: int, last: list[dict[str, object]]
) -> None:
    if args.json:
        print_json({"path": str(path), "entries": num_entries, "ok": True, "last": last})
        return
    print_text(f"{path}: ok, {num_entries} entries")
    for entry in last:
        print_text(json.dumps(entry, ensure_ascii=False))


def _table(args: argparse.Namespace) -> None:
    from autoglm.privacy.policy import load_policy, table

    policy = load_policy(args.policy)
    if args.json:
        print_json([each._asdict() for each in policy.classes.values()])
    else:
        print_text(table(policy), end="")
