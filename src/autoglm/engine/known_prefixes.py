"""Token ids of how prompts began, so that the next turn of a long chat is not tokenised again.

A prompt is cut only before a control token of its template: such a token ends what is before it, so
the ids of both sides are those of the whole.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoglm.engine.tokenizer import Tokenizer

# Shorter prompts are tokenised in less than a millisecond.
LEAST_CHARS = 1024
MAX_REMEMBERED = 16
MAX_CHARS = 2**21


class KnownPrefixes:
    """Encodes rendered prompts of one tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._ids: OrderedDict[str, list[int]] = OrderedDict()
        self._num_chars = 0

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt whose control tokens count. Raises as Tokenizer.encode."""
        if len(text) < LEAST_CHARS or not self._tokenizer.has_firm_controls:
            return self._tokenizer.encode(text)
        prefix, ids = self._longest(text)
        ids = ids + self._tokenizer.encode(text[len(prefix) :])
        self._remember(text, ids)
        return ids

    def _longest(self, text: str) -> tuple[str, list[int]]:
        """The longest prefix that is known, and its ids."""
        with self._lock:
            known = [
                prefix
                for prefix in self._ids
                if text.startswith(prefix)
                and self._tokenizer.starts_with_control(text, len(prefix))
            ]
            if not known:
                return "", []
            prefix = max(known, key=len)
            self._ids.move_to_end(prefix)
            return prefix, self._ids[prefix]

    def _remember(self, text: str, ids: list[int]) -> None:
        """What is before the last control token."""
        controls = (at for at in reversed(range(len(ids))) if self._tokenizer.is_control(ids[at]))
        at = next(controls, 0)
        end = text.rfind(self._tokenizer.control_name(ids[at])) if at else -1
        if end < LEAST_CHARS or self._tokenizer.encode(text[end:]) != ids[at:]:
            return
        with self._lock:
            prefix = text[:end]
            if prefix not in self._ids:
                self._num_chars += end
            self._ids[prefix] = ids[:at]
            self._ids.move_to_end(prefix)
            while len(self._ids) > MAX_REMEMBERED or self._num_chars > MAX_CHARS:
                oldest, _ = self._ids.popitem(last=False)
                self._num_chars -= len(oldest)
