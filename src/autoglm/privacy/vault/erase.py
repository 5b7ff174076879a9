"""Destroying a vault so that no copy of its files can be read again."""

from __future__ import annotations

import contextlib
from pathlib import Path

from autoglm.errors import StorageError
from autoglm.privacy.vault import database as db
from autoglm.privacy.vault.keystore import Keystore
from autoglm.privacy.vault.places import VaultPaths


def erase(paths: VaultPaths, keystore: Keystore) -> None:
    """Destroy the vault: first its secret, then the wrapped key, then the files.

    After the first step nothing can be read again; called again it completes what was cut off.
    """
    keystore.destroy()
    if paths.database.exists():
        # A file too damaged to be rewritten is removed all the same.
        with contextlib.suppress(StorageError):
            _blank(paths.database)
    for suffix in ("", "-journal", "-wal", "-shm"):
        paths.database.with_name(paths.database.name + suffix).unlink(missing_ok=True)
    paths.anchor.unlink(missing_ok=True)


def _blank(path: Path) -> None:
    """Overwrite the wrapped key and the state."""
    database = db.connect(path)
    try:
        with db.translate_errors(path), db.transaction(database, "EXCLUSIVE"):
            database.execute(
                "UPDATE vault SET wrapped = zeroblob(length(wrapped)), "
                "state = zeroblob(length(state))"
            )
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.close()
