"""Vaults in temporary directories, with data, state and key apart from each other."""

from pathlib import Path

import pytest

from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault


@pytest.fixture
def paths(tmp_path) -> VaultPaths:
    return VaultPaths(tmp_path / "data" / "vault.db", tmp_path / "state" / "anchor")


@pytest.fixture
def key_file(tmp_path) -> KeyFile:
    return KeyFile(tmp_path / "config" / "key")


@pytest.fixture
def vault(paths, key_file):
    with Vault(paths, key_file) as opened:
        yield opened


def all_bytes(directory: Path) -> bytes:
    """Everything in the files of a directory."""
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())
