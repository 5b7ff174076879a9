"""What a cold start may import: the packages that cost more than the whole start are named here."""

import subprocess
import sys

import pytest

BANNED = (
    "numpy",
    "torch",
    "transformers",
    "huggingface_hub",
    "asyncio",
    "ssl",
    "jinja2",
    "pydantic",
)


def modules_after(code: str) -> set[str]:
    """Names of the modules that are loaded once `code` has run in a fresh interpreter."""
    script = f"{code}\nimport sys\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("module", ["autoglm", "autoglm.cli.main", "autoglm.client"])
def test_import_brings_nothing_banned(module):
    assert modules_after(f"import {module}").isdisjoint(BANNED)


def test_import_autoglm_brings_none_of_its_own_layers():
    loaded = modules_after("import autoglm")
    assert {name for name in loaded if name.startswith("autoglm.")} == set()


def test_generate_brings_nothing_banned(tiny_bundle):
    arguments = ["generate", "hello", "--model", str(tiny_bundle), "--max-tokens", "2"]
    loaded = modules_after(f"from autoglm.cli.main import main\nmain({arguments!r})")
    assert loaded.isdisjoint(BANNED)


def test_opening_a_vault_brings_nothing_slow():
    loaded = modules_after("import autoglm.privacy.vault.store, autoglm.privacy.vault.keystore")
    slow = {"dataclasses", "inspect", "keyring", "cryptography.hazmat.primitives.kdf.argon2"}
    assert loaded.isdisjoint({*BANNED, *slow})
