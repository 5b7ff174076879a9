"""Speeds of the service: many at once, later turns, restarts, forms, and what HTTP costs."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from autoglm.config import load_settings
from autoglm.runtime import Runtime
from autoglm.types import Message, Request, SamplingParams
from serving.client import COMPLETE, Answer, Server, chat, messages, own_service

# Ids that every vocabulary of the models here has.
IDS = range(1000, 16_000)
OVERHEAD_S, LEAST_PAIRS = 10.0, 11
Sample = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is asked."""

    slots: int = 8
    prompt_tokens: int = 64
    tokens: int = 64
    long_words: int = 1800
    threads: int = 2


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of all lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def gaps(answers: list[Answer]) -> list[float]:
    """Seconds between the pieces of answers."""
    return [b - a for one in answers for a, b in zip(one.times, one.times[1:], strict=False)]


async def at_once(server: Server, count: int, load: Load, rng: Random) -> Sample:
    """`count` prompts of token ids together; works with any server of OpenAI's completions."""
    bodies: list[dict[str, Any]] = [
        {
            "prompt": rng.choices(IDS, k=load.prompt_tokens),
            "max_tokens": load.tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        for _ in range(count)
    ]
    start = time.perf_counter()
    answers = await asyncio.gather(*(server.ask(body, COMPLETE) for body in bodies))
    seconds = time.perf_counter() - start
    done = sum(one.tokens for one in answers)
    if done != count * load.tokens:
        found = ", ".join(f"{one.status}: {one.tokens}" for one in answers)
        message = f"expected {load.tokens} tokens of each answer, got {found}"
        raise RuntimeError(message)
    return {
        "tokens_per_s": done / seconds,
        "p95_gap_ms": percentile(gaps(answers), 0.95) * 1e3,
        "first_token_ms": statistics.median(one.times[0] for one in answers) * 1e3,
    }


async def second_turn(server: Server, load: Load, rng: Random) -> Sample:
    """A long chat and its next turn."""
    turn = messages(rng, load.long_words)
    one = await server.ask(chat(rng, 1, 16, messages=turn))
    turn += [{"role": "assistant", "content": one.text}, *messages(rng, 8)]
    two = await server.ask(chat(rng, 1, 16, messages=turn))
    first, second = one.times[0] * 1e3, two.times[0] * 1e3
    tokens = float(one.usage["prompt_tokens"])
    return {
        "prompt_tokens": tokens,
        "first_turn_ms": first,
        "second_turn_ms": second,
        "share": second / first,
    }


def restart(arguments: list[str], load: Load, rng: Random) -> Sample:
    """A long chat, a restart with its KV on disk, and the next turn, after another or at once."""
    with tempfile.TemporaryDirectory() as home:
        environ = {f"XDG_{kind}_HOME": f"{home}/{kind}" for kind in ("DATA", "STATE", "CONFIG")}
        create = [sys.executable, "-m", "autoglm", "vault", "create", "--key", "file"]
        subprocess.run(create, env=os.environ | environ, check=True, capture_output=True)
        arguments = [*arguments, "--kv-mib", "2048"]
        turn = messages(rng, load.long_words)
        with own_service(arguments, environ) as server:
            asyncio.run(server.ask(chat(rng, 4, 2)))
            one = asyncio.run(server.ask(chat(rng, 1, 16, messages=turn)))
        turn += [{"role": "assistant", "content": one.text}, *messages(rng, 8)]
        with own_service(arguments, environ) as server:
            asyncio.run(server.ask(chat(rng, 4, 2)))
            warm = asyncio.run(server.ask(chat(rng, 1, 16, messages=turn)))
        with own_service(arguments, environ) as server:
            cold = asyncio.run(server.ask(chat(rng, 1, 16, messages=turn)))
        saved = sum(file.stat().st_size for file in Path(home).rglob("*.kv"))
    first = one.times[0]
    return {
        "first_turn_ms": first * 1e3,
        "restored_ms": warm.times[0] * 1e3,
        "share": warm.times[0] / first,
        "with_loading_share": cold.times[0] / first,
        "saved_mib": saved / 2**20,
    }


async def forms(server: Server, load: Load, rng: Random) -> Sample:
    """Answers in free text and bound to a schema: alone, and in all slots at once.

    Bound answers end when they like, so each free one has the length of one of them: as many
    sequences share the passes at any time. At a high temperature text does not repeat itself, so
    free answers gain nothing by drafts. Of three rounds the median.
    """
    text = {"type": "string", "minLength": 5 * load.tokens, "maxLength": 5 * load.tokens}
    schema = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    sample = {}
    for name, count in (("alone", 1), ("at_once", load.slots)):
        speeds: dict[str, list[float]] = {"bound": [], "free": [], "share": []}
        for _ in range(3):
            wild = {"temperature": 1.5, "seed": rng.randrange(10**6)}
            more = {"guided_json": schema, "ignore_eos": False, **wild}
            bound, lengths = await _all(server, [chat(rng, 8, 999, **more) for _ in range(count)])
            free, _ = await _all(server, [chat(rng, 8, length, **wild) for length in lengths])
            speeds["bound"].append(bound)
            speeds["free"].append(free)
            speeds["share"].append(bound / free)
        sample[f"{name}_bound_tokens_per_s"] = statistics.median(speeds["bound"])
        sample[f"{name}_free_tokens_per_s"] = statistics.median(speeds["free"])
        sample[f"{name}_share"] = statistics.median(speeds["share"])
    return sample


async def _all(server: Server, bodies: list[dict[str, Any]]) -> tuple[float, list[int]]:
    """Tokens a second of all answers after their beginnings, and their lengths."""
    answers = await asyncio.gather(*(server.ask(body) for body in bodies))
    begin = max(one.times[0] for one in answers)
    end = max(one.times[-1] for one in answers)
    return sum(one.tokens for one in answers) / (end - begin), [one.tokens for one in answers]


class Direct:
    """The engine in this process, to compare the service with."""

    def __init__(self, model: Path | None, load: Load) -> None:
        named = {"model": None if model is None else str(model), "threads": load.threads}
        self._runtime = Runtime(load_settings(named))
        self._runtime.load()

    def ask(self, body: dict[str, Any]) -> tuple[float, float]:
        """Seconds to the first token, and tokens a second after it."""
        request = Request(
            messages=tuple(Message(one["role"], one["content"]) for one in body["messages"]),
            max_tokens=body["max_tokens"],
            sampling=SamplingParams(temperature=0, ignore_eos=True),
        )
        start = time.perf_counter()
        times, tokens = [], 0
        for chunk in self._runtime.stream(request):
            times.append(time.perf_counter() - start)
            tokens += len(chunk.token_ids)
        return times[0], (tokens - 1) / (times[-1] - times[0])


async def overhead(server: Server, direct: Direct, load: Load, rng: Random) -> Sample:
    """The same chat by the engine and over HTTP, in turns: eleven times, or for ten seconds."""
    sample: Sample = {}
    firsts: dict[str, list[float]] = {"engine": [], "service": []}
    speeds: dict[str, list[float]] = {"engine": [], "service": []}
    until = time.monotonic() + OVERHEAD_S
    while len(firsts["engine"]) < LEAST_PAIRS or time.monotonic() < until:
        body = chat(rng, 24, 2 * load.tokens)
        first, speed = direct.ask(body)
        firsts["engine"].append(first)
        speeds["engine"].append(speed)
        answer = await server.ask(body)
        firsts["service"].append(answer.times[0])
        speeds["service"].append(answer.decode_speed)
    for name in firsts:
        sample[f"{name}_first_token_ms"] = statistics.median(firsts[name]) * 1e3
        sample[f"{name}_tokens_per_s"] = statistics.median(speeds[name])
    added = [b - a for a, b in zip(firsts["engine"], firsts["service"], strict=True)]
    ratios = [b / a for a, b in zip(speeds["engine"], speeds["service"], strict=True)]
    sample["added_first_token_ms"] = statistics.median(added) * 1e3
    sample["speed_share"] = statistics.median(ratios)
    return sample


def dumped(sample: Sample) -> str:
    """For progress."""
    return json.dumps({name: round(value, 3) for name, value in sample.items()})
