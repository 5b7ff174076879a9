"""Answers that outlive their process, in a store that encrypts: the vault.

All of them are in memory, too; the store is read once and follows what is put and dropped. Beside
them it holds the secret of the cache's keys.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from autoglm.engine.answer_cache import SECRET_BYTES, Answer, AnswerCache
from autoglm.errors import AutoGLMError
from autoglm.types import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWERS, SECRET = "answers", "answer secret"
_SECRET_KEY = b"secret"
log = logging.getLogger("autoglm")


class Record(Protocol):
    """A stored answer."""

    @property
    def key(self) -> bytes:
        """Its key in the cache."""

    @property
    def value(self) -> bytes:
        """The answer."""

    @property
    def seq(self) -> int:
        """Grows with every write."""


class Changes(Protocol):
    """The part of a vault's transaction that is needed."""

    def get(self, collection: str, key: bytes) -> bytes | None:
        """The value, None when there is none."""

    def put(self, collection: str, key: bytes, value: bytes) -> int:
        """Set a value."""

    def delete(self, collection: str, key: bytes) -> bool:
        """Remove a value."""


class AnswerStore(Protocol):
    """The part of a vault that is needed."""

    def transaction(self) -> AbstractContextManager[Changes]:
        """What is changed in the block is kept whole or not at all."""

    def scan(self, collection: str, *, after: int = 0, limit: int = 1000) -> Sequence[Record]:
        """Values written after a number, oldest first."""

    def close(self) -> None:
        """Give the store back."""


class KeptAnswers(AnswerCache):
    """A cache whose answers are found again by the next process."""

    def __init__(self, max_bytes: int, store: AnswerStore) -> None:
        """Read what is kept, and drop the oldest beyond the bound. Raises what the store raises."""
        self._store = store
        self._is_closed = False
        with store.transaction() as changes:
            secret = changes.get(SECRET, _SECRET_KEY)
            if secret is None:
                secret = os.urandom(SECRET_BYTES)
                changes.put(SECRET, _SECRET_KEY, secret)
        super().__init__(max_bytes, secret=secret)
        dropped: list[bytes] = []
        last = 0
        while records := store.scan(ANSWERS, after=last):
            for record in records:
                answer = _decoded(record.value)
                dropped += [record.key] if answer is None else super().put(record.key, answer)
            last = records[-1].seq
        self._write(None, dropped)

    def put(self, key: bytes, answer: Answer) -> list[bytes]:
        """Store an answer; one that cannot be written is kept until the process ends."""
        dropped = super().put(key, answer)
        if key not in dropped and not self._is_closed:
            try:
                self._write((key, _encoded(answer)), dropped)
            except AutoGLMError as err:
                log.warning("an answer is not kept: %s", err)
        return dropped

    def close(self) -> None:
        """Give the store back; what is put later is not kept."""
        self._is_closed = True
        self._store.close()

    def _write(self, added: tuple[bytes, bytes] | None, dropped: list[bytes]) -> None:
        if added is None and not dropped:
            return
        with self._store.transaction() as changes:
            for key in dropped:
                changes.delete(ANSWERS, key)
            if added is not None:
                changes.put(ANSWERS, *added)


def _encoded(answer: Answer) -> bytes:
    return json.dumps(asdict(answer), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _decoded(value: bytes) -> Answer | None:
    """The answer; None for one of another version, which is not worth an error."""
    with suppress(ValueError, TypeError, KeyError):
        fields = json.loads(value.decode("utf-8", "surrogatepass"))
        return Answer(**{**fields, "usage": Usage(**fields["usage"])})
    return None
