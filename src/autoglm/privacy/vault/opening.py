"""Opening the vault of a home with the key store that it names, or that this machine offers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from autoglm.errors import VaultError
from autoglm.privacy.vault.database import translate_errors
from autoglm.privacy.vault.keystore import (
    KeyFile,
    Keystore,
    Kind,
    OsKeyring,
    Passphrase,
    has_keyring,
)
from autoglm.privacy.vault.places import VaultHome
from autoglm.privacy.vault.store import Vault

AskPassphrase = Callable[[], str]


def open_vault(
    home: VaultHome, ask: AskPassphrase, *, key_file: Path | None = None, accept_rollback: bool
) -> Vault:
    """The existing vault. Raises what `Vault` raises."""
    keystore = find_keystore(home, ask, key_file=key_file)
    return Vault(home.paths, keystore, must_exist=True, accept_rollback=accept_rollback)


def find_keystore(home: VaultHome, ask: AskPassphrase, *, key_file: Path | None = None) -> Keystore:
    """The key store that the vault was sealed with."""
    return make_keystore(stored_kind(home), home, ask, key_file=key_file)


def make_keystore(
    kind: Kind | None, home: VaultHome, ask: AskPassphrase, *, key_file: Path | None = None
) -> Keystore:
    """A key store of this kind; None is the keyring where one works, else a key file."""
    if kind is None:
        kind = "keyring" if key_file is None and has_keyring() else "file"
    match kind:
        case "keyring":
            return OsKeyring(home.name)
        case "file":
            return KeyFile(key_file or home.key_file)
        case "passphrase":
            return Passphrase(ask())


def stored_kind(home: VaultHome) -> Kind:
    """The kind of key store written in the vault. Raises VaultError."""
    path = home.paths.database
    if not path.exists():
        message = f"{path}: there is no vault here; autoglm vault create makes one"
        raise VaultError(message)
    with translate_errors(path):
        database = sqlite3.connect(path)
        try:
            row = database.execute("SELECT keystore FROM vault").fetchone()
        finally:
            database.close()
    kinds: tuple[Kind, ...] = ("keyring", "file", "passphrase")
    for kind in kinds:
        if row == (kind,):
            return kind
    message = f"{path}: the vault's file is damaged; restore it from a copy"
    raise VaultError(message)
