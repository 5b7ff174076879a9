"""Reads one entry of the desktop's Secret Service, without what `keyring` costs to find it.

`keyring` looks for all its backends first, a tenth of a second; it made the entry, and is asked
whenever this gives nothing.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from autoglm.errors import MissingExtraError, require

_ADDRESS = "DBUS_SESSION_BUS_ADDRESS"
_BACKEND = "PYTHON_KEYRING_BACKEND"


def read_entry(service: str, name: str) -> str | None:
    """The entry's text; None if there is none, it is locked, or the user chose another keyring."""
    if _ADDRESS not in os.environ or _BACKEND in os.environ or _has_choice():
        return None
    try:
        secrets = require("secretstorage", extra="vault")
    except MissingExtraError:
        return None
    try:
        with closing(secrets.dbus_init()) as bus:
            for item in secrets.search_items(bus, {"service": service, "username": name}):
                if not item.is_locked():
                    return bytes(item.get_secret()).decode()
    except (secrets.exceptions.SecretStorageException, OSError, UnicodeDecodeError):
        return None
    return None


def _has_choice() -> bool:
    """Whether keyring's own configuration names a backend."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", "/")) / ".config"
    return (Path(config) / "python_keyring" / "keyringrc.cfg").exists()
