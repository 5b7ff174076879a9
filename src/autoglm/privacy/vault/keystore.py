"""Where the secret above all keys is kept: the system's keyring, a private file, or a passphrase.

None of them lies in the vault's directory, so a copy of that directory opens nothing.
"""

from __future__ import annotations

import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from autoglm.errors import MissingExtraError, UsageError, VaultError, VaultKeyError, require
from autoglm.privacy.key_file import create_secret, destroy_secret, read_secret
from autoglm.privacy.vault.keys import KEY_BYTES
from autoglm.privacy.vault.secret_service import read_entry

if TYPE_CHECKING:
    from types import ModuleType

Kind = Literal["keyring", "file", "passphrase"]

_SERVICE = "autoglm vault"
_MISSING = "the vault's key is missing; without it nothing in the vault can be read"


class Keystore(Protocol):
    """Gives one secret of 32 bytes."""

    @property
    def kind(self) -> Kind:
        """What is written into the vault, so that its key is found again."""

    def create(self, salt: bytes) -> bytes:
        """The secret, made if there is none. `salt` is the vault's own."""

    def read(self, salt: bytes) -> bytes:
        """The secret of an existing vault. Raises VaultKeyError when there is none."""

    def destroy(self) -> None:
        """Forget the secret; a second call does nothing."""


class KeyFile:
    """A file of 32 random bytes that only its owner may read."""

    kind: Kind = "file"

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, salt: bytes) -> bytes:
        """The secret in the file, which is made if missing."""
        return create_secret(self.path)

    def read(self, salt: bytes) -> bytes:
        """The secret in the file, which must be private."""
        try:
            return read_secret(self.path)
        except FileNotFoundError as err:
            raise VaultKeyError(_MISSING) from err

    def destroy(self) -> None:
        """Overwrite and remove the file."""
        destroy_secret(self.path)


class OsKeyring:
    """An entry of the keyring of the desktop or the system."""

    kind: Kind = "keyring"

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self, salt: bytes) -> bytes:
        """The secret in the keyring, which is made if missing."""
        keyring = require("keyring", extra="vault")
        if self._find(keyring) is None:
            text = binascii.b2a_base64(os.urandom(KEY_BYTES), newline=False).decode()
            try:
                keyring.set_password(_SERVICE, self.name, text)
            except keyring.errors.KeyringError as err:
                raise _no_keyring(err) from err
        return self.read(salt)

    def read(self, salt: bytes) -> bytes:
        """The secret in the keyring."""
        found = read_entry(_SERVICE, self.name)
        if found is None:
            found = self._find(require("keyring", extra="vault"))
        if found is None:
            raise VaultKeyError(_MISSING)
        try:
            secret = binascii.a2b_base64(found, strict_mode=True)
        except binascii.Error as err:
            raise VaultKeyError(_MISSING) from err
        if len(secret) != KEY_BYTES:
            raise VaultKeyError(_MISSING)
        return secret

    def destroy(self) -> None:
        """Delete the entry."""
        keyring = require("keyring", extra="vault")
        if self._find(keyring) is not None:
            keyring.delete_password(_SERVICE, self.name)

    def probe(self) -> None:
        """Raise VaultError when there is no keyring, MissingExtraError without its package."""
        self._find(require("keyring", extra="vault"))

    def _find(self, keyring: ModuleType) -> str | None:
        try:
            found: str | None = keyring.get_password(_SERVICE, self.name)
        except keyring.errors.KeyringError as err:
            raise _no_keyring(err) from err
        return found


def has_keyring() -> bool:
    """Whether this machine has a keyring that can be asked."""
    try:
        OsKeyring("probe").probe()
    except (VaultError, MissingExtraError):
        return False
    return True


def _no_keyring(err: Exception) -> VaultError:
    return VaultError(
        f"the system's keyring cannot be used ({type(err).__name__}); "
        "use a key file or a passphrase"
    )


class Passphrase:
    """A secret computed from a passphrase by Argon2id (RFC 9106, its second choice: 64 MiB)."""

    kind: Kind = "passphrase"

    def __init__(self, text: str) -> None:
        self._text = text

    def create(self, salt: bytes) -> bytes:
        """The secret of a new vault."""
        if len(self._text) < 8:
            message = "a passphrase needs at least 8 characters"
            raise UsageError(message)
        return self.read(salt)

    def read(self, salt: bytes) -> bytes:
        """The secret that the passphrase gives with the vault's salt."""
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=3, lanes=4, memory_cost=64 * 1024)
        return kdf.derive(self._text.encode())

    def destroy(self) -> None:
        """Nothing is stored that could be destroyed."""
