"""`make bench-peers`: our engine and its peers in one interleaved run, with ratios to the best.

Each round goes ours, a peer, ours, the next peer, ...; one process is alive at a time, and a timing
during which anything else used more than 0.1 processors is repeated. Saves after every turn, by
default in benchmarks/results/peers-<time>.json; report.py renders it into BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import machine_line
from peers.campaign import Campaign, OutOfTimeError, Part, is_named, say, write_document
from peers.engines import FAST, LIMITED_ISAS, PRODUCT, Form, ours, peers, variants
from peers.environment import DEFAULT_HOME, make_all, make_peak, read_files
from peers.product import (
    LOOKUP_NEW,
    LOOKUP_QUOTES,
    REQUESTS_P95,
    first_token_samples,
    int8_peak,
    lookup_samples,
    profile,
    request_samples,
)
from peers.summary import complete, latest, read_results, table
from peers.targets import LARGE, LITE, SMALL, Scale
from peers.workload import FIRST_TOKEN, LARGE_WORK, LIMITED_WORK, LONG, SHORT, SMALL_WORK
from random_checkpoint import SHAPES, Shape

from autoglm import _core
from autoglm.engine.model import EMBEDDED_MODEL
from autoglm.modelfile.bundle import open_bundle

RESULTS = Path(__file__).parent / "results"
SECTIONS = ("product", "large", "small", "limited")
PROFILE_DEPTHS = (0, 4096)
MIB = 2**20
MINUTE_S = 60.0


def limited_isas() -> list[str]:
    """The instruction sets below the best of this processor."""
    cpu = _core.cpu_info()
    supported = cpu["supported"]
    if not isinstance(supported, list):
        return []
    return [isa for isa in LIMITED_ISAS if isa in supported and isa != cpu["isa"]]


def parts(args: argparse.Namespace) -> list[Part]:
    """The models of the sections asked for, the largest first."""
    models: Path = args.home / "models"
    found = []
    for section, label, work in (("large", LARGE, LARGE_WORK), ("small", SMALL, SMALL_WORK)):
        if section in args.sections:
            own = ours(models / label, args.threads)
            others = peers(args.home, models / label, args.threads)
            others += variants(models / label, args.threads)
            found.append(Part(label=label, own=own, others=others, work=work))
    if "limited" in args.sections:
        for isa in limited_isas():
            own = ours(models / LARGE, args.threads, isa)
            others = peers(args.home, models / LARGE, args.threads, isa)
            label = f"{LARGE}, {isa}"
            found.append(Part(label=label, own=own, others=others, work=LIMITED_WORK))
    for part in found:
        part.others = [other for other in part.others if is_named(other.name, args.engines)]
    return found


def measure_product(campaign: Campaign, args: argparse.Namespace) -> None:
    """The rows of the command and of LITE that the file lacks."""
    for label, model in ((LARGE, args.home / "models" / LARGE / "int4"), (LITE, None)):
        if campaign.lacks(PRODUCT, label, FIRST_TOKEN):
            say(f"{label}: the command")
            campaign.add(first_token_samples(label, model, args.runs, args.attempts))
    if campaign.lacks(PRODUCT, LITE, REQUESTS_P95):
        say(f"{LITE}: requests")
        campaign.add(request_samples(LITE, args.threads, args.attempts))
    if any(campaign.lacks(PRODUCT, LITE, row) for row in (LOOKUP_QUOTES, LOOKUP_NEW)):
        say(f"{LITE}: drafts")
        campaign.add(lookup_samples(LITE, args.threads, args.attempts))


def measure(campaign: Campaign, args: argparse.Namespace) -> None:
    """Every round of every part, the first of all before the second of any."""
    chosen = parts(args)
    read_files(engine for part in chosen for engine in (part.own, *part.others))
    if "product" in args.sections and is_named(PRODUCT, args.engines):
        measure_product(campaign, args)
    for number in range(args.rounds):
        for part in chosen:
            campaign.measure_round(part, number)


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


def forms(home: Path, threads: int) -> dict[str, Form]:
    """In what precision each engine computes, and the product with its own model."""
    engines = [ours(home, threads), *variants(home, threads)]
    for isa in (None, *LIMITED_ISAS):
        engines += peers(home, home, threads, isa)
    weights = open_bundle(EMBEDDED_MODEL).weights
    own = Form(f"{weights}, 8-bit activations, int8 cache", weights, 8, "int8")
    return {**{engine.name: engine.form for engine in engines}, PRODUCT: FAST, LITE: own}


def head(args: argparse.Namespace) -> dict[str, Any]:
    """What a result file says beside the samples; measures the limits of the machine."""
    bundle = args.home / "models" / LARGE / "int4"
    profiles = []
    for depth in PROFILE_DEPTHS:
        say(f"profile at depth {depth}")
        profiles.append(profile(bundle, args.threads, depth, args.attempts))
    peak = int8_peak(make_peak(args.home), args.threads, args.attempts)
    for found in profiles:
        found["limits"]["operations_per_s"] = peak
    return {
        "time": datetime.datetime.now(tz=datetime.UTC).isoformat(),
        "machine": machine_line(args.threads),
        "forms": {name: asdict(form) for name, form in forms(args.home, args.threads).items()},
        "scale": asdict(measure_scale(bundle, profiles[0])),
        "profiles": profiles,
    }


def open_campaign(args: argparse.Namespace) -> Campaign:
    """A new one, or that of the file to resume."""
    if args.resume is not None:
        campaign = Campaign.read(args.resume)
    else:
        now = datetime.datetime.now(tz=datetime.UTC)
        path = args.out or RESULTS / f"peers-{now:%Y%m%dT%H%M%SZ}.json"
        campaign = Campaign(path=path, head=head(args))
    campaign.row_names, campaign.attempts = args.rows, args.attempts
    if args.minutes is not None:
        campaign.deadline = args.start + MINUTE_S * args.minutes
    if args.anew:
        chosen = parts(args)
        engines = {(e.name, p.label) for p in chosen for e in (p.own, *p.others)}
        if "product" in args.sections:
            engines |= {(PRODUCT, LARGE), (PRODUCT, LITE)}
        campaign.forget(engines)
    return campaign


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", metavar="DIR", type=Path, default=DEFAULT_HOME)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="at most")
    parser.add_argument("--minutes", type=float, help="start no turn after so many")
    parser.add_argument("--runs", type=int, default=10, help="starts of the command")
    parser.add_argument("--attempts", type=int, default=4, help="tries for a quiet timing")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--rows", metavar="NAME", nargs="+", default=[], help="only these")
    parser.add_argument("--engines", metavar="NAME", nargs="+", default=[], help="and ours")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--out", metavar="FILE", type=Path, help="default: dated, in results")
    target.add_argument("--resume", metavar="FILE", type=Path, help="measure what it lacks")
    parser.add_argument("--anew", action="store_true", help="forget what is asked for first")
    parser.add_argument("--quality", metavar="FILE", type=Path, help="default: the latest")
    args = parser.parse_args()
    args.home, args.start = args.home.resolve(), time.monotonic()
    return args


def main() -> int:
    """Build what is missing, measure, save, print."""
    args = parse_arguments()
    make_all(args.home)
    campaign = open_campaign(args)
    campaign.save()
    try:
        measure(campaign, args)
    except OutOfTimeError:
        say("out of time")
    saved = complete(campaign.document, args.quality or latest(RESULTS, "quality-*.json"))
    write_document(campaign.path, saved)
    print(f"{saved['machine']}; {saved['time'][:10]}\n\n{table(read_results(saved))}")
    say(f"saved {campaign.path}; render it with benchmarks/report.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
