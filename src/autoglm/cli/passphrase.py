"""Asks for the passphrase of a vault: on a terminal, otherwise the first line of standard input."""

from __future__ import annotations

import getpass
import sys

from autoglm.errors import InputError


def ask_passphrase() -> str:
    """The passphrase. Raises InputError when there is none."""
    if sys.stdin.isatty():
        return getpass.getpass("passphrase: ", stream=sys.stderr)
    line = sys.stdin.readline().rstrip("\n")
    if not line:
        message = "a passphrase is needed on standard input"
        raise InputError(message)
    return line
