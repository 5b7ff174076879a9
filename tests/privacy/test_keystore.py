"""The secret in a keyring: made once, found again, deleted; and what happens without one."""

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import PasswordDeleteError

from autoglm.errors import VaultError, VaultKeyError
from autoglm.privacy.vault.keystore import OsKeyring, has_keyring
from autoglm.privacy.vault.opening import make_keystore
from autoglm.privacy.vault.places import VaultHome
from autoglm.privacy.vault.store import Vault


class MemoryKeyring(KeyringBackend):
    """A keyring as the library defines one, without a daemon."""

    # Below that of "no keyring", so that nothing else in this process chooses it.
    priority = -1

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service, username):
        return self.entries.get((service, username))

    def set_password(self, service, username, password):
        self.entries[service, username] = password

    def delete_password(self, service, username):
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError(username)


@pytest.fixture
def backend():
    before, memory = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(memory)
    yield memory
    keyring.set_keyring(before)


@pytest.fixture
def no_backend():
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())
    yield
    keyring.set_keyring(before)


def test_vault_opens_with_the_secret_in_the_keyring(backend, paths):
    with Vault(paths, OsKeyring("mine")) as vault:
        vault.put("a", b"k", b"v")
    with Vault(paths, OsKeyring("mine")) as vault:
        assert vault.get("a", b"k") == b"v"
    assert list(backend.entries) == [("autoglm vault", "mine")]
    with pytest.raises(VaultKeyError):
        Vault(paths, OsKeyring("another"))


def test_deleted_secret_opens_nothing(backend, paths):
    Vault(paths, OsKeyring("mine")).close()
    for _ in range(2):
        OsKeyring("mine").destroy()
    with pytest.raises(VaultKeyError):
        Vault(paths, OsKeyring("mine"))


@pytest.mark.parametrize("stored", ["", "not base64!", "c2hvcnQ="])
def test_entry_that_is_no_secret_opens_nothing(backend, paths, stored):
    Vault(paths, OsKeyring("mine")).close()
    backend.entries["autoglm vault", "mine"] = stored
    with pytest.raises(VaultKeyError):
        Vault(paths, OsKeyring("mine"))


def test_machine_without_a_keyring_gets_a_key_file(no_backend, tmp_path):
    home = VaultHome.find({"HOME": str(tmp_path)})
    assert not has_keyring()
    assert make_keystore(None, home, str).kind == "file"
    with pytest.raises(VaultError, match="key file"):
        Vault(home.paths, OsKeyring("mine"))


def test_machine_with_a_keyring_uses_it_unless_a_file_is_named(backend, tmp_path):
    home = VaultHome.find({"HOME": str(tmp_path)})
    assert make_keystore(None, home, str).kind == "keyring"
    assert make_keystore(None, home, str, key_file=tmp_path / "key").kind == "file"
