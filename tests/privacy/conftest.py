"""Vaults in temporary directories, with data, state and key apart from each other."""

import shutil
from pathlib import Path

import pytest

from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault

HAS_KEYRING = all(map(shutil.which, ("dbus-run-session", "gnome-keyring-daemon")))
collect_ignore = [] if HAS_KEYRING else ["test_secret_service.py"]


def pytest_report_header() -> list[str]:
    """Say why the tests of a real keyring are missing."""
    missing = "keyring: not tested: apt install dbus-daemon gnome-keyring"
    return [] if HAS_KEYRING else [missing]


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
