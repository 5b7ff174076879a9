"""Answers of repeated requests, in memory, least recently used out first.

A key covers everything the answer depends on and reveals nothing: it is a keyed hash whose key
lives as long as the answers. Only what is deterministic may be stored; the caller sees to that.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass

from autoglm.types import FinishReason, Message, Request, Usage

SECRET_BYTES = 32
_OVERHEAD_BYTES = 512
_MAX_PLAIN_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of a result."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    num_parts: int
    is_extracted: bool = False


class AnswerCache:
    """A bounded map from requests to answers. Safe to use from several threads."""

    def __init__(self, max_bytes: int, *, secret: bytes | None = None) -> None:
        """`secret` is that of the keys; without one they mean nothing to another cache."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._secret = secret or os.urandom(SECRET_BYTES)
        self._lock = threading.Lock()

    def key(self, request: Request, *, model: bytes, context_tokens: int, max_tokens: int) -> bytes:
        """Hash of the request, the model's `fingerprint`, the window and the answer's limit."""
        sampling, prompt = asdict(request.sampling), request.prompt
        sampling["logit_bias"] = sorted(request.sampling.logit_bias.items())
        fields = {
            "model": model.hex(),
            "window": [context_tokens, max_tokens],
            "messages": [self._shortened(message) for message in request.messages],
            "prompt": self._short(prompt) if isinstance(prompt, str) else prompt,
            "text": None if request.text is None else self._short(request.text),
            "stop": request.stop,
            "schema": request.schema,
            "grammar": request.grammar and [request.grammar.kind, request.grammar.source],
            "tools": [asdict(tool) for tool in request.tools],
            "tool_choice": [request.tool_choice, request.is_parallel],
            "sampling": sampling,
        }
        plain = json.dumps(fields, sort_keys=True).encode()
        return hashlib.blake2b(plain, key=self._secret).digest()

    def _shortened(self, message: Message) -> dict[str, object]:
        return {**asdict(message), "content": self._short(message.content)}

    def _short(self, text: str) -> str:
        """The text, or a hash of a long one: to quote it would take the interpreter for itself."""
        if len(text) <= _MAX_PLAIN_CHARS:
            return text
        plain = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(plain, key=self._secret).hexdigest()

    def get(self, key: bytes) -> Answer | None:
        """The stored answer, which becomes the most recently used."""
        with self._lock:
            answer = self._answers.get(key)
            if answer is not None:
                self._answers.move_to_end(key)
            return answer

    def put(self, key: bytes, answer: Answer) -> list[bytes]:
        """Store an answer; returns the keys of the oldest beyond the bound, which are dropped."""
        size = _size(answer)
        if size > self._max_bytes:
            return [key]
        dropped = []
        with self._lock:
            replaced = self._answers.pop(key, None)
            self._num_bytes += size - (_size(replaced) if replaced else 0)
            self._answers[key] = answer
            while self._num_bytes > self._max_bytes:
                name, oldest = self._answers.popitem(last=False)
                self._num_bytes -= _size(oldest)
                dropped.append(name)
        return dropped

    def close(self) -> None:
        """Nothing of it outlives the process."""


def _size(answer: Answer) -> int:
    return 4 * len(answer.text) + _OVERHEAD_BYTES
