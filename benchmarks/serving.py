"""Measures the service over HTTP: many chats at once, second turns, forms, overload, disconnects.

Starts `autoglm serve` itself. Prints one line a figure, with the least and the most; `--json` adds
a document. The clients run in this process, on the same processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
WORDS = [
    "time",
    "person",
    "year",
    "way",
    "day",
    "thing",
    "man",
    "world",
    "life",
    "hand",
    "part",
    "child",
    "eye",
    "woman",
    "place",
]


@dataclass
class Answer:
    """What a stream brought and when, in seconds since it was asked for."""

    status: int = 0
    text: str = ""
    times: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return int(self.usage.get("completion_tokens", 0))


@contextmanager
def service(arguments: list[str]) -> Iterator[int]:
    """The port of a service that runs while the block does."""
    command = [sys.executable, "-m", "autoglm", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        match = next(found for line in process.stderr if (found := ADDRESS.search(line)))
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield int(match[1])
    finally:
        process.terminate()
        process.wait()
        drain.wait()


async def post(port: int, body: dict[str, Any], *, leave_after: float | None = None) -> Answer:
    """A streamed chat; the client goes after `leave_after` seconds."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = Answer()
    try:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body | options).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + data)
        if leave_after is not None:
            await asyncio.sleep(leave_after)
            return answer
        answer.status = int((await reader.readline()).split()[1])
        if answer.status != HTTPStatus.OK:
            return answer
        async for line in reader:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                break
            event = json.loads(line[6:])
            answer.usage = event.get("usage") or answer.usage
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    answer.times.append(time.perf_counter() - start)
                    answer.text += text
    finally:
        writer.close()
        answer.seconds = time.perf_counter() - start
    return answer


async def gauge(port: int, name: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    match = re.search(rf"^autoglm_{name} (\S+)$", text, re.M)
    return float(match[1]) if match else 0.0


def prompt(rng: random.Random, num_words: int) -> list[dict[str, str]]:
    text = " ".join(rng.choice(WORDS) for _ in range(num_words))
    return [{"role": "user", "content": text}]


def body(rng: random.Random, words: int, tokens: int, **more: Any) -> dict[str, Any]:
    fixed = {"temperature": 0, "ignore_eos": True, "max_tokens": tokens}
    return fixed | {"messages": prompt(rng, words)} | more


def gaps(answers: list[Answer]) -> list[float]:
    """Seconds between the pieces of answers, first pieces left out."""
    return [b - a for one in answers for a, b in zip(one.times, one.times[1:], strict=False)]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def at_once(port: int, count: int, args: argparse.Namespace, seed: int) -> dict[str, float]:
    rng = random.Random(seed)
    bodies = [body(rng, args.prompt_words, args.tokens) for _ in range(count)]
    start = time.perf_counter()
    answers = await asyncio.gather(*(post(port, one) for one in bodies))
    seconds = time.perf_counter() - start
    first = max(one.times[0] for one in answers)
    done = sum(one.tokens for one in answers)
    decode_s = max(one.seconds for one in answers) - first
    return {
        "tokens_per_s": done / seconds,
        "decode_tokens_per_s": (done - count) / decode_s if decode_s > 0 else 0.0,
        "p95_gap_ms": percentile(gaps(answers), 0.95) * 1e3,
        "first_token_ms": statistics.median(one.times[0] for one in answers) * 1e3,
    }


async def second_turn(port: int, args: argparse.Namespace, seed: int) -> dict[str, float]:
    rng = random.Random(seed)
    messages = prompt(rng, args.long_words)
    one = await post(port, body(rng, 1, 16, messages=messages))
    turn = [*messages, {"role": "assistant", "content": one.text}, *prompt(rng, 8)]
    two = await post(port, body(rng, 1, 16, messages=turn))
    first, second = one.times[0] * 1e3, two.times[0] * 1e3
    return {"first_turn_ms": first, "second_turn_ms": second, "share": second / first}


async def overload(port: int, args: argparse.Namespace) -> dict[str, float]:
    """Ten times what the slots and the queue hold, again and again."""
    rng, refused, served = random.Random(3), [], []
    before = await gauge(port, "resident_bytes")
    deadline = time.perf_counter() + args.overload_seconds

    async def client() -> None:
        while time.perf_counter() < deadline:
            answer = await post(port, body(rng, 20, 16))
            (served if answer.status == HTTPStatus.OK else refused).append(answer)
            await asyncio.sleep(0.2 if answer.status != HTTPStatus.OK else 0)

    await asyncio.gather(*(client() for _ in range(10 * args.slots)))
    return {
        "served": len(served),
        "refused": len(refused),
        "refusal_p99_ms": percentile([one.seconds for one in refused], 0.99) * 1e3,
        "grown_mib": (await gauge(port, "resident_bytes") - before) / 2**20,
    }


async def disconnects(port: int, args: argparse.Namespace) -> dict[str, float]:
    rng, times = random.Random(4), []
    for number in range(args.disconnects):
        one = body(rng, rng.choice([5, args.long_words]), 2000)
        await post(port, one, leave_after=rng.random() * 0.5)
        if number % 10:
            continue
        start = time.perf_counter()
        while await gauge(port, "requests_running") + await gauge(port, "requests_waiting"):
            await asyncio.sleep(0.005)
        times.append(time.perf_counter() - start)
    return {"freed_p99_ms": percentile(times, 0.99) * 1e3}


async def forms(port: int, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Tokens a second of an answer in free text and in one that a schema binds."""
    rng = random.Random(seed)
    text = {"type": "string", "minLength": 4 * args.tokens}
    schema = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    free = await post(port, body(rng, 8, args.tokens))
    more = {"guided_json": schema, "ignore_eos": False}
    bound = await post(port, body(rng, 8, 8 * args.tokens, **more))
    speeds = [(one.tokens - 1) / (one.times[-1] - one.times[0]) for one in (free, bound)]
    return {"free_tokens_per_s": speeds[0], "bound_tokens_per_s": speeds[1]}


async def measure(port: int, args: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(0)
    await post(port, body(rng, 4, 2))
    figures: dict[str, Any] = {"slots": args.slots}
    for count in (1, args.slots):
        runs = [await at_once(port, count, args, seed) for seed in range(args.repeat)]
        figures[f"at once {count}"] = middle(runs)
    turns = [await second_turn(port, args, 100 + seed) for seed in range(args.repeat)]
    figures["second turn"] = middle(turns)
    figures["forms"] = middle([await forms(port, args, 200 + n) for n in range(args.repeat)])
    if args.overload_seconds:
        figures["overload"] = await overload(port, args)
    if args.disconnects:
        figures["disconnects"] = await disconnects(port, args)
    return figures


def middle(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """Median, least and most of every figure."""
    return {
        name: [round(f([run[name] for run in runs]), 3) for f in (statistics.median, min, max)]
        for name in runs[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", metavar="DIR", type=Path)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--prompt-words", type=int, default=64)
    parser.add_argument("--long-words", type=int, default=1200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--overload-seconds", type=float, default=0.0)
    parser.add_argument("--disconnects", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    arguments = ["--slots", str(args.slots), "--threads", os.environ.get("AUTOGLM_THREADS", "2")]
    if args.model:
        arguments += ["--model", str(args.model)]
    with service(arguments) as port:
        figures = asyncio.run(measure(port, args))
    for name, values in figures.items():
        if isinstance(values, dict):
            for key, value in values.items():
                print(f"{name:<12} {key:<22} {value}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
