"""What a runner of a peer speaks: requests as words on stdin, answers as JSON lines on stdout.

Runs in the peers' environment, so it needs the standard library only. llama_runner.cc speaks the
same protocol. Requests (every answer is {"seconds": [...]}, one number a repetition):
prefill N R: a fresh sequence of N tokens. extend N: N tokens more. decode N R: N tokens one by one.
rows K R: K tokens at once after a prompt of 32, with all their logits.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Protocol

SHORT_PROMPT = 32


class Engine(Protocol):
    """One loaded model and one sequence."""

    def reset(self) -> None:
        """Begin an empty sequence."""

    def feed(self, num_tokens: int) -> None:
        """Append random tokens and compute the logits of the last."""

    def decode(self, num_tokens: int) -> None:
        """Append the most likely token, so many times."""

    def rows(self, num_tokens: int) -> None:
        """Append random tokens, compute the logits of all, and take the tokens back."""


class RandomIds:
    """Token ids that no cache has seen; the same in every run."""

    def __init__(self, vocab_size: int, seed: int = 1) -> None:
        self._state = seed
        self._vocab_size = vocab_size

    def __call__(self, count: int) -> list[int]:
        """The next ids, of a linear congruential generator (Knuth's constants)."""
        ids = []
        for _ in range(count):
            self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
            ids.append((self._state >> 33) % self._vocab_size)
        return ids


def timed(work: Callable[[], None]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def answer(engine: Engine, command: str, arguments: list[int]) -> list[float]:
    """Carry out one request; the seconds of each repetition."""
    count, repeats = arguments[0], arguments[1] if len(arguments) > 1 else 1
    if command == "rows":
        engine.reset()
        engine.feed(SHORT_PROMPT)
    if command == "decode":
        engine.decode(1)  # some engines sample it without a pass of its own
    seconds = []
    for _ in range(repeats):
        if command == "prefill":
            engine.reset()
        if command in ("prefill", "extend"):
            seconds.append(timed(lambda: engine.feed(count)))
        elif command == "decode":
            seconds.append(timed(lambda: engine.decode(count)))
        else:
            seconds.append(timed(lambda: engine.rows(count)))
    return seconds


def say(document: dict[str, object]) -> None:
    """One line of the answer stream."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def serve(engine: Engine, what: str) -> None:
    """First one token after a short prompt, which is the ready line; then requests until EOF."""
    engine.reset()
    engine.feed(SHORT_PROMPT)
    engine.decode(1)
    say({"ready": what})
    for line in sys.stdin:
        command, *arguments = line.split()
        say({"seconds": answer(engine, command, list(map(int, arguments)))})
