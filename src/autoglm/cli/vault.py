"""Look after the encrypted store of this device.

A passphrase is asked for on a terminal, and otherwise read from the first line of standard input.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from autoglm.cli.interrupt import interrupt_on_termination
from autoglm.cli.options import add_json_option
from autoglm.cli.output import Progress, note, print_json, print_text
from autoglm.cli.passphrase import ask_passphrase
from autoglm.errors import UsageError, require

if TYPE_CHECKING:
    from autoglm.privacy.vault.places import VaultHome
    from autoglm.privacy.vault.store import Vault
    from autoglm.privacy.vault.transaction import Record

ACTIONS = {
    "create": "make the store if there is none",
    "status": "check every record and show what the store is",
    "rotate": "seal everything under a new key",
    "export": "write all records in the clear, as JSON lines",
    "erase": "destroy the store so that no copy of it can be read",
}
KINDS = ("keyring", "file", "passphrase")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    actions = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=list(ACTIONS), metavar="ACTION", help=actions)
    parser.add_argument(
        "out",
        nargs="?",
        metavar="FILE",
        help="with export: the file to make, - for standard output",
    )
    parser.add_argument("--vault", metavar="DIR", type=Path, help="directory (default: your own)")
    parser.add_argument(
        "--key",
        choices=KINDS,
        help="with create and rotate: where the key is kept (default: the keyring if there is one, "
        "else a private file; rotate leaves it where it is)",
    )
    parser.add_argument("--key-file", metavar="FILE", type=Path, help="the file of the key")
    parser.add_argument(
        "--accept-rollback",
        action="store_true",
        help="take a store into use that is older than the last one seen, or comes from elsewhere",
    )
    parser.add_argument("--yes", action="store_true", help="with erase: do it")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do one action."""
    require("cryptography", extra="vault")
    from autoglm.privacy.vault.places import VaultHome

    home = VaultHome.find(os.environ, args.vault)
    if (args.out is not None) != (args.action == "export"):
        message = "export needs a FILE, and only export"
        raise UsageError(message)
    with interrupt_on_termination():
        match args.action:
            case "create":
                _create(home, args)
            case "status":
                with _open(home, args) as vault:
                    _report(vault, args)
            case "rotate":
                _rotate(home, args)
            case "export":
                with _open(home, args) as vault:
                    _export(vault, args.out)
            case "erase":
                _erase(home, args)
    return 0


def _open(home: VaultHome, args: argparse.Namespace) -> Vault:
    from autoglm.privacy.vault.opening import open_vault

    return open_vault(
        home, ask_passphrase, key_file=args.key_file, accept_rollback=args.accept_rollback
    )


def _create(home: VaultHome, args: argparse.Namespace) -> None:
    from autoglm.privacy.vault.opening import make_keystore
    from autoglm.privacy.vault.store import Vault

    if home.paths.database.exists():
        message = f"{home.paths.database}: exists already; autoglm vault status shows it"
        raise UsageError(message)
    keystore = make_keystore(args.key, home, ask_passphrase, key_file=args.key_file)
    with Vault(home.paths, keystore) as vault:
        _report(vault, args)


def _report(vault: Vault, args: argparse.Namespace) -> None:
    with Progress("checking", total=100, unit="%") as bar:
        vault.verify(progress=lambda done, total: bar.update(100 * done // max(total, 1)))
    status = vault.status()
    path = str(vault.paths.database)
    if args.json:
        print_json({"path": path, **status._asdict()})
    else:
        print_text(
            f"{path}: ok, {status.num_records} records, {status.num_bytes} bytes, "
            f"key {status.key_id} from the {status.keystore}, used {status.num_seals} times, "
            f"commit {status.generation}"
        )


def _rotate(home: VaultHome, args: argparse.Namespace) -> None:
    from autoglm.privacy.vault.opening import find_keystore, make_keystore
    from autoglm.privacy.vault.store import Vault

    old = find_keystore(home, ask_passphrase, key_file=args.key_file)
    is_moved = args.key is not None
    new = make_keystore(args.key, home, ask_passphrase, key_file=args.key_file) if is_moved else old
    with Vault(home.paths, old, accept_rollback=args.accept_rollback) as vault:
        with Progress("sealing", total=100, unit="%") as bar:
            vault.rotate(new, progress=lambda done, total: bar.update(100 * done // max(total, 1)))
        if new.kind != old.kind:
            old.destroy()
        _report(vault, args)


def _export(vault: Vault, out: str) -> None:
    # A damaged store is told of before anything is written.
    num_records = vault.verify()
    with _output(out) as file, Progress("exporting", total=num_records, unit="records") as bar:
        for done, record in enumerate(vault.records(), start=1):
            file.write(json.dumps(_as_json(record), ensure_ascii=False) + "\n")
            bar.update(done)
    note(f"{num_records} records were written in the clear; whoever has them can read them")


@contextmanager
def _output(out: str) -> Iterator[TextIO]:
    if out == "-":
        yield sys.stdout
        return
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as err:
        message = f"{out}: exists already; name a new file"
        raise UsageError(message) from err
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yield file


def _as_json(record: Record) -> dict[str, str | int]:
    fields: dict[str, str | int] = {"collection": record.collection, "seq": record.seq}
    for name, content in (("key", record.key), ("value", record.value)):
        try:
            fields[name] = content.decode()
        except UnicodeDecodeError:
            fields[f"{name}_base64"] = base64.b64encode(content).decode()
    return fields


def _erase(home: VaultHome, args: argparse.Namespace) -> None:
    from autoglm.errors import VaultError
    from autoglm.privacy.vault.erase import erase
    from autoglm.privacy.vault.keystore import KeyFile, Keystore, OsKeyring, has_keyring
    from autoglm.privacy.vault.opening import stored_kind

    if not args.yes:
        message = f"erasing {home.directory} cannot be undone; add --yes to do it"
        raise UsageError(message)
    try:
        kind = stored_kind(home)
    except VaultError:
        # Too damaged to say, or erased before: whatever key there is goes.
        kind = "keyring" if has_keyring() else "file"
    keyring: Keystore = OsKeyring(home.name)
    erase(home.paths, keyring if kind == "keyring" else KeyFile(args.key_file or home.key_file))
    if args.json:
        print_json({"path": str(home.paths.database), "erased": True})
    else:
        print_text(f"{home.paths.database}: erased")
