"""Measures the service over HTTP, beside llama.cpp's server when it is there, in one run.

Starts the servers itself; the clients run in this process, on the same processors. Saves every
sample in benchmarks/results and rewrites the section of BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from peers.campaign import write_document
from peers.environment import make_llama_server
from peers.turn import process_seconds
from quiet import TICKS_PER_SECOND
from serving.client import Server, chat, llama_service, own_service
from serving.endurance import disconnects, idle_sockets, overload
from serving.report import RESULTS, render
from serving.schemas import schemas
from serving.speed import (
    Direct,
    Load,
    Sample,
    at_once,
    dumped,
    forms,
    overhead,
    restart,
    second_turn,
)

from autoglm.hardware.process import busy_seconds

SPEED = ("idle", "chats", "turns", "restart", "overhead", "forms", "overload")
ENDURANCE = ("schemas", "disconnects", "sockets")
LITE, LARGE, LLAMA = "LITE", "large", "llama.cpp"


@dataclass
class Run:
    """What is asked for, and the samples so far."""

    load: Load
    args: argparse.Namespace
    document: dict[str, Any]
    pids: list[int] = field(default_factory=list)

    def arguments(self, model: str) -> list[str]:
        """The options of our service."""
        options = ["--slots", str(self.load.slots), "--threads", str(self.load.threads)]
        return [*options, "--model", str(self.args.model)] if model == LARGE else options

    @contextmanager
    def server(self, model: str) -> Iterator[Server]:
        """A service of this model that has answered once."""
        with ExitStack() as stack:
            if model == LLAMA:
                options = {"slots": self.load.slots, "threads": self.load.threads}
                theirs = llama_service(self.args.llama, self.args.gguf, **options)
                server = stack.enter_context(theirs)
            else:
                server = stack.enter_context(own_service(self.arguments(model)))
                asyncio.run(server.ask(chat(Random(0), 4, 2)))
            self.pids.append(server.pid)
            try:
                yield server
            finally:
                self.pids.remove(server.pid)

    def take(self, name: str, model: str, measure: Callable[[], Sample]) -> None:
        """Measure once, and keep the sample with what else the processors did."""
        start, before = time.monotonic(), self._others()
        sample = measure()
        others = (self._others() - before) / (time.monotonic() - start)
        row = {"name": name, "model": model, "other_cpus": round(max(0.0, others), 3), **sample}
        self.document["samples"].append(row)
        print(f"{name:<12} {model:<10} {dumped(sample)}", flush=True)
        write_document(self.args.out, self.document)

    def _others(self) -> float:
        """Processor time of all but this process and the server that runs."""
        own = time.process_time() + sum(map(process_seconds, self.pids))
        return (busy_seconds(TICKS_PER_SECOND) or 0.0) - own


def ended(measure: Callable[[], Coroutine[Any, Any, Sample]]) -> Sample:
    """The sample of a measurement, in an event loop of its own."""
    return asyncio.run(measure())


def idle(server: Server) -> Sample:
    """Nobody has asked for a model yet."""
    return {"resident_mib": server.resident_mib}


def chats(run: Run, model: str, rounds: int) -> None:
    """One stream, and as many as there are slots."""
    with run.server(model) as server:
        rng = Random(1)
        asyncio.run(at_once(server, 1, replace(run.load, tokens=4), rng))
        for _ in range(rounds):
            for count in (1, run.load.slots):
                measure = partial(at_once, server, count, run.load, rng)
                run.take(f"chats {count}", model, partial(ended, measure))


def speeds(run: Run, model: str, parts: Sequence[str]) -> None:
    """What our service alone is asked for."""
    load, rng = run.load, Random(2)
    if "idle" in parts:
        with own_service(run.arguments(model)) as server:
            run.take("idle", model, partial(idle, server))
    with run.server(model) as server:
        if "overhead" in parts:
            direct = Direct(run.args.model if model == LARGE else None, load)
            run.take(
                "overhead", model, partial(ended, partial(overhead, server, direct, load, rng))
            )
        if "turns" in parts:
            run.take("turns", model, partial(ended, partial(second_turn, server, load, rng)))
        if "forms" in parts and model == LITE:
            run.take("forms", model, partial(ended, partial(forms, server, load, rng)))
    if "restart" in parts:
        run.take("restart", model, partial(restart, run.arguments(model), load, rng))


def endurance(run: Run, parts: Sequence[str]) -> None:
    """What is asked of the small model for a long time."""
    load, args = run.load, run.args
    if not {"overload", *ENDURANCE} & set(parts):
        return
    with run.server(LITE) as server:
        if "overload" in parts:
            seconds = args.overload_seconds
            run.take("overload", LITE, partial(ended, partial(overload, server, load, seconds)))
        if "schemas" in parts:
            run.take("schemas", LITE, partial(ended, partial(schemas, server, args.schemas, 1)))
        if "disconnects" in parts:
            count = args.disconnects
            run.take("disconnects", LITE, partial(ended, partial(disconnects, server, load, count)))
        if "sockets" in parts:
            run.take("sockets", LITE, partial(ended, partial(idle_sockets, server, load, 1000)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", metavar="DIR", type=Path, help="a larger bundle beside LITE")
    parser.add_argument("--llama", metavar="FILE", type=Path, help="llama.cpp's llama-server")
    parser.add_argument("--gguf", metavar="FILE", type=Path, help="its model, with a vocabulary")
    parser.add_argument(
        "--peers", metavar="DIR", type=Path, help="make both where bench-peers keeps engines"
    )
    parser.add_argument("--only", metavar="PART,...", default=",".join(SPEED + ENDURANCE))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--overload-seconds", type=float, default=120.0)
    parser.add_argument("--disconnects", type=int, default=1000)
    parser.add_argument("--schemas", type=int, default=1000)
    default = RESULTS / f"serve-{time.strftime('%Y%m%d')}.json"
    parser.add_argument("--out", metavar="FILE", type=Path, default=default)
    parser.add_argument("--keep", action="store_true", help="keep the samples of other parts in it")
    args = parser.parse_args(argv)
    if args.peers is not None:
        args.llama, args.gguf = make_llama_server(args.peers.resolve())
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, save, render."""
    args = parse(argv)
    parts = args.only.split(",")
    if unknown := set(parts) - {*SPEED, *ENDURANCE}:
        print(f"bench-serve: no such part: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    document: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "samples": []}
    if args.keep and args.out.exists():
        saved = json.loads(args.out.read_text(encoding="utf-8"))["samples"]
        named = {name.split()[0] for name in parts}
        document["samples"] = [one for one in saved if one["name"].split()[0] not in named]
    run = Run(Load(), args, document)
    models = [LITE] if args.model is None else [LARGE, LITE]
    if "chats" in parts:
        for _ in range(args.rounds):
            for model in [*models, *([LLAMA] if args.llama and args.gguf else [])]:
                chats(run, model, 1)
    for model in models:
        if set(parts) & set(SPEED) - {"chats", "overload"}:
            speeds(run, model, parts)
    endurance(run, parts)
    render(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
