"""Where a vault's parts lie: the database in one directory, key and anchor apart from it.

A copy of the data directory alone is then neither readable nor able to pass for the latest state.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class VaultPaths(NamedTuple):
    """The vault's file, and its anchor, which must lie in another directory."""

    database: Path
    anchor: Path


class VaultHome(NamedTuple):
    """The usual places for a vault in `directory`; `name` is its entry in keyring and config."""

    directory: Path
    name: str
    paths: VaultPaths
    key_file: Path

    @classmethod
    def find(cls, environ: Mapping[str, str], directory: Path | None = None) -> VaultHome:
        """The home of the vault in `directory`, by default the user's own vault."""
        home = Path(environ.get("HOME", "/"))
        data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share") / "autoglm"
        state = Path(environ.get("XDG_STATE_HOME") or home / ".local/state") / "autoglm"
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "autoglm"
        directory = (directory or data / "vault").resolve()
        name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
        paths = VaultPaths(directory / "vault.db", state / f"vault-{name}.anchor")
        return cls(directory, name, paths, config / "keys" / f"vault-{name}.key")
