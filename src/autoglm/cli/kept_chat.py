"""A conversation of `autoglm chat` in the vault, which the next call goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

from autoglm.errors import VaultError, require
from autoglm.types import Message, Role

if TYPE_CHECKING:
    from autoglm.privacy.vault.store import Vault

HISTORY = "history"


class KeptChat:
    """One conversation by its name."""

    def __init__(self, vault: Vault, name: str) -> None:
        self._vault = vault
        self._key = name.encode("utf-8", "surrogateescape")

    def load(self) -> list[Message]:
        """The turns so far; none of a conversation that is new. Raises VaultError."""
        value = self._vault.get(HISTORY, self._key)
        if value is None:
            return []
        try:
            turns = [Message(role, content) for role, content in json.loads(value)]
        except (ValueError, TypeError) as err:
            raise self._unknown() from err
        roles = get_args(Role)
        if any(turn.role not in roles or not isinstance(turn.content, str) for turn in turns):
            raise self._unknown()
        return turns

    def save(self, turns: list[Message]) -> None:
        """Replace the turns. Raises VaultError, StorageError."""
        value = json.dumps([[turn.role, turn.content] for turn in turns], ensure_ascii=False)
        self._vault.put(HISTORY, self._key, value.encode("utf-8", "surrogatepass"))

    def forget(self) -> None:
        """Remove the conversation."""
        self._vault.delete(HISTORY, self._key)

    def _unknown(self) -> VaultError:
        return VaultError(f"what the vault keeps in '{HISTORY}' under this name is no conversation")


@contextmanager
def kept_chat(name: str | None) -> Iterator[KeptChat | None]:
    """The conversation of that name, None without one. Raises what opening the vault raises."""
    if name is None:
        yield None
        return
    require("cryptography", extra="vault")
    from autoglm.cli.passphrase import ask_passphrase
    from autoglm.privacy.vault.opening import open_vault
    from autoglm.privacy.vault.places import VaultHome

    with open_vault(VaultHome.find(os.environ), ask_passphrase, accept_rollback=False) as vault:
        yield KeptChat(vault, name)
