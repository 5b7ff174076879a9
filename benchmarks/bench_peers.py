"""`make bench-peers`: our engine and its peers in one interleaved run, with ratios to the best.

Each round goes ours, a peer, ours, the next peer, ...; one process is alive at a time, and a timing
during which anything else used more than 0.1 processors is repeated. Writes
benchmarks/results/peers-<time>.json; report.py renders it into BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import machine_line
from peers.engines import LIMITED_ISAS, Engine, ours, peers
from peers.environment import DEFAULT_HOME, make_all
from peers.product import first_token_samples, lookup_samples, profile, request_samples
from peers.rows import LARGE, LITE, SMALL, Scale, rows_of, table
from peers.turn import PeerError
from peers.workload import (
    LARGE_WORK,
    LIMITED_WORK,
    LONG,
    SHORT,
    SMALL_WORK,
    Sample,
    Workload,
    take_turn,
)
from random_checkpoint import SHAPES, Shape

from autoglm import _core
from autoglm.modelfile.bundle import open_bundle

RESULTS = Path(__file__).parent / "results"
SECTIONS = ("large", "small", "limited", "product")
PROFILE_DEPTHS = (0, 4096)
MIB = 2**20


def say(text: str) -> None:
    """Progress goes to standard error; the table is the output."""
    print(f"bench-peers: {text}", file=sys.stderr, flush=True)


def measure_model(
    label: str,
    own: Engine,
    others: Sequence[Engine],
    work: Workload,
    *,
    rounds: int,
    attempts: int,
) -> list[Sample]:
    """All turns of one model. A peer that fails is named and left out from then on."""
    samples: list[Sample] = []
    broken: set[str] = set()
    for number in range(rounds):
        for own_turn, other in enumerate(others):
            for engine in (own, other):
                if engine.name in broken:
                    continue
                say(f"{label}, round {number + 1} of {rounds}: {engine.name}")
                may_pair = number == 0 and (own_turn == 0 or not engine.is_ours)
                try:
                    samples += take_turn(engine, label, number, work, attempts, may_pair=may_pair)
                except (PeerError, OSError) as err:
                    if engine.is_ours:
                        raise
                    say(f"left out: {err}")
                    broken.add(engine.name)
    return samples


def chosen(engines: Sequence[Engine], names: Sequence[str]) -> list[Engine]:
    """Those asked for by a part of their names; all, if none is."""
    return [e for e in engines if not names or any(n.lower() in e.name.lower() for n in names)]


def limited_isas() -> list[str]:
    """The instruction sets below the best of this processor."""
    cpu = _core.cpu_info()
    supported = cpu["supported"]
    if not isinstance(supported, list):
        return []
    return [isa for isa in LIMITED_ISAS if isa in supported and isa != cpu["isa"]]


def precision(home: Path, threads: int) -> dict[str, str]:
    """What each engine's weights are."""
    engines = [ours(home, threads), *peers(home, home, threads)]
    return {engine.name: engine.weights for engine in engines}


def sections(args: argparse.Namespace) -> Iterator[list[Sample]]:
    """The samples of every section asked for, as they come."""
    models: Path = args.home / "models"

    def run(label: str, shape: str, work: Workload, isa: str | None) -> list[Sample]:
        own = ours(models / shape, args.threads, isa)
        others = chosen(peers(args.home, models / shape, args.threads, isa), args.peers)
        rounds = args.rounds if isa is None else args.limited_rounds
        return measure_model(label, own, others, work, rounds=rounds, attempts=args.attempts)

    if "product" in args.sections:
        for label, model in ((LARGE, models / LARGE / "int4"), (LITE, None)):
            say(f"{label}: the command")
            yield first_token_samples(label, model, args.runs, args.attempts)
        say(f"{LITE}: requests and drafts")
        yield request_samples(LITE, args.threads, args.attempts)
        yield lookup_samples(LITE, args.threads, args.attempts)
    if "large" in args.sections:
        yield run(LARGE, LARGE, LARGE_WORK, None)
    if "small" in args.sections:
        yield run(SMALL, SMALL, SMALL_WORK, None)
    if "limited" in args.sections:
        for isa in limited_isas():
            yield run(f"{LARGE}, {isa}", LARGE, LIMITED_WORK, isa)


def measure_scale(bundle: Path, profile: dict[str, Any]) -> Scale:
    """What the targets that are shares of the machine are shares of."""
    shape = SHAPES[LARGE]
    return Scale(
        weights_mib=open_bundle(bundle).weights_bytes / MIB,
        read_bytes_per_s=profile["limits"]["read_bytes_per_s"],
        operations_per_s=profile["limits"]["operations_per_s"],
        token_operations={n: token_operations(shape, n) for n in (SHORT, LONG)},
    )


def token_operations(shape: Shape, length: int) -> float:
    """Multiplications and additions of a prompt token, on average over the prompt."""
    matrices = sum(
        math.prod(dims)
        for name, dims in shape.tensors().items()
        if len(dims) == 2 and "embed" not in name
    )
    attention = 2 * shape.layers * shape.heads * shape.head_dim * length / 2
    head = shape.vocab * shape.hidden / length
    return 2 * (matrices + attention + head)


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", metavar="DIR", type=Path, default=DEFAULT_HOME)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limited-rounds", type=int, default=2, help="of limited processors")
    parser.add_argument("--runs", type=int, default=10, help="starts of the command")
    parser.add_argument("--attempts", type=int, default=4, help="tries for a quiet timing")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--peers", metavar="NAME", nargs="+", default=[], help="only these")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: a dated file in results")
    args = parser.parse_args()
    args.home = args.home.resolve()
    return args


def main() -> int:
    """Build what is missing, measure, save, print."""
    args = parse_arguments()
    make_all(args.home)
    bundle = args.home / "models" / LARGE / "int4"
    profiles = []
    for depth in PROFILE_DEPTHS:
        say(f"profile at depth {depth}")
        profiles.append(profile(bundle, args.threads, depth, args.attempts))
    scale = measure_scale(bundle, profiles[0])
    now = datetime.datetime.now(tz=datetime.UTC)
    saved: dict[str, Any] = {
        "time": now.isoformat(),
        "machine": machine_line(args.threads),
        "weights": precision(args.home, args.threads),
        "scale": asdict(scale),
        "profiles": profiles,
        "samples": [],
    }
    path = args.out or RESULTS / f"peers-{now:%Y%m%dT%H%M%SZ}.json"
    samples: list[Sample] = []
    for found in sections(args):
        samples += found
        saved["samples"] = [asdict(sample) for sample in samples]
        text = json.dumps(saved, indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")
    rows = rows_of(samples, scale)
    print(f"{saved['machine']}; {now:%Y-%m-%d}\n\n{table(rows)}")
    say(f"saved {path}; render it with benchmarks/report.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
