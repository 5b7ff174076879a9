"""A vault whose secret lies in a real keyring: GNOME's, on a D-Bus of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNLOCK = "printf secret | gnome-keyring-daemon --unlock --components=secrets >/dev/null"
CODE = """
import os, sys, time
from pathlib import Path
from autoglm.errors import VaultKeyError
from autoglm.privacy.vault.keystore import OsKeyring
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault

root = Path(sys.argv[1])
def opened():
    return Vault(VaultPaths(root / "data/v.db", root / "state/a"), OsKeyring("mine"))
match sys.argv[2]:
    case "make":
        with opened() as vault:
            vault.put("a", b"0", b"kept")
    case "read":
        with opened() as vault:
            print(vault.get("a", b"0").decode(), "keyring" in sys.modules)
    case "destroy":
        OsKeyring("mine").destroy()
        try:
            opened()
        except VaultKeyError:
            print("gone")
"""


@pytest.fixture
def on_a_bus(tmp_path):
    """Run the code above, once for each word, beside one keyring."""

    def run(*words: str, **environ: str) -> list[str]:
        script = tmp_path / "code.py"
        script.write_text(CODE, encoding="utf-8")
        calls = "; ".join(f"{sys.executable} {script} {tmp_path} {word}" for word in words)
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            ["dbus-run-session", "--", "sh", "-ec", f"{UNLOCK}; {calls}; kill 0"],
            env={"PATH": f"{Path(shutil.which('sh')).parent}:/usr/bin", "HOME": str(home)}
            | environ,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
            check=False,
        )
        return done.stdout.splitlines()

    return run


def test_secret_is_read_without_loading_keyring(on_a_bus):
    assert on_a_bus("make", "read") == ["kept False"]


def test_chosen_backend_is_asked_instead(on_a_bus):
    backend = "keyring.backends.SecretService.Keyring"
    assert on_a_bus("make", "read", PYTHON_KEYRING_BACKEND=backend) == ["kept True"]


def test_destroyed_secret_opens_nothing(on_a_bus):
    assert on_a_bus("make", "destroy") == ["gone"]
