"""Keeps the KV caches of models beyond their time in memory, sealed by keys from the vault."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.errors import AutoGLMError

if TYPE_CHECKING:
    from autoglm.engine.local import LocalEngine
    from autoglm.engine.native_pages import NativePages
    from autoglm.engine.saved_pages import SavedPages
    from autoglm.privacy.vault.store import Vault

log = logging.getLogger("autoglm.serve")


class PageSaver:
    """Opens what was saved of each model."""

    def __init__(self, vault: Vault, directory: Path, *, max_bytes: int) -> None:
        """`max_bytes` bounds the files of all models together."""
        self._vault = vault
        self._directory = directory
        self._max_bytes = max_bytes

    def open(
        self, pages: NativePages, engine: LocalEngine, fingerprint: bytes
    ) -> SavedPages | None:
        """Let `engine` find the beginnings of prompts that were saved; None when that fails."""
        from autoglm.engine.saved_pages import SavedPages

        identity = fingerprint + pages.identity
        try:
            saved = SavedPages(
                self._directory, self._vault, pages, identity, max_bytes=self._max_bytes
            )
        except AutoGLMError as err:
            log.warning("the saved KV cache is not used: %s", err)
            return None
        engine.restore_by(saved.restore)
        return saved
