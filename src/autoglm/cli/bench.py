"""Measure prefill and decode speed, start and memory of a model with random token ids.

Drafts from the text so far are off: random weights repeat themselves, and would flatter the speed.
Those of a draft model are on.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from autoglm.cli.interrupt import exit_on_interrupt
from autoglm.cli.options import (
    add_draft_option,
    add_expert_memory_option,
    add_json_option,
    add_model_option,
    add_precision_option,
    add_threads_option,
    add_window_option,
    whole_number,
)
from autoglm.cli.output import Progress, print_json, print_text
from autoglm.cli.workload import Workload, add_workload_options, random_ids, workload
from autoglm.config import Settings, load_settings
from autoglm.engine.base import TokenModel
from autoglm.engine.model import embedded_model
from autoglm.engine.native import NativeModel, held_tokens
from autoglm.hardware.process import peak_rss_bytes, reset_peak_rss
from autoglm.modelfile.bundle import open_bundle
from autoglm.types import SamplingParams

MIB = 2**20
LONGEST = 2**24  # tokens measured with a window


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The figures of one repeat. `first_token_ms` is load, prompt and one token.

    `drafted_tokens` and the share of them that was right are those of a draft model.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    load_ms: float
    first_token_ms: float
    peak_rss_mib: float
    drafted_tokens: float
    draft_acceptance: float


WARM_UP = Workload(prompt_tokens=1, gen_tokens=1, depth=0)
DRAFT_FIGURES = ("drafted_tokens", "draft_acceptance")
FIGURES = tuple(name for name in Measurement.__dataclass_fields__ if name not in DRAFT_FIGURES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_option(parser)
    add_workload_options(parser)
    parser.add_argument(
        "--repeat",
        metavar="R",
        type=whole_number(1),
        default=3,
        help="times to measure, each with a fresh load (default: 3)",
    )
    add_window_option(parser)
    add_draft_option(parser)
    add_threads_option(parser)
    add_expert_memory_option(parser)
    add_precision_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print median, min and max of every figure."""
    names = ("model", "threads", "window", "draft_model", "expert_memory_mib", "precision")
    settings = load_settings({name: getattr(args, name) for name in names})
    path = Path(settings.model) if settings.model else embedded_model()
    work = workload(args, LONGEST if settings.window else open_bundle(path).max_position)
    with exit_on_interrupt():
        report = _measure_all(path, work, settings, repeat=args.repeat)
    if args.json:
        print_json(report)
    else:
        print_text("\n".join(_lines(report)))
    return 0


def _measure_all(path: Path, work: Workload, settings: Settings, *, repeat: int) -> dict[str, Any]:
    window = {"window": settings.window, "sink": settings.sink}

    draft = open_bundle(settings.draft_model) if settings.draft_model else None

    def load() -> NativeModel:
        return NativeModel(
            open_bundle(path),
            pool_tokens=held_tokens(work.context_tokens, **window),
            threads=settings.threads,
            **window,
            has_prompt_lookup=False,
            draft=draft,
            expert_memory_mib=settings.expert_memory_mib,
            precision=settings.precision,
        )

    bundle = open_bundle(path)
    rng = random.Random(0)
    measurements: list[Measurement] = []
    with Progress("measuring", total=repeat, unit="repeats") as progress:
        # Brings the file into the page cache.
        measure(load, WARM_UP, rng, bundle.config.vocab_size)
        for number in range(repeat):
            measurements.append(measure(load, work, rng, bundle.config.vocab_size))
            progress.update(number + 1)
        model = load()
    return {
        **summary(measurements),
        "weights_bytes": bundle.weights_bytes,
        "isa": model.isa,
        "threads": model.threads,
        "model": str(path),
        "weights": bundle.weights,
        "prompt_tokens": work.prompt_tokens,
        "gen_tokens": work.gen_tokens,
        "depth": work.depth,
        "window": settings.window,
        "draft_model": settings.draft_model,
        "expert_memory_mib": settings.expert_memory_mib,
        "precision": settings.precision,
        "repeat": repeat,
    }


def measure(
    load: Callable[[], TokenModel[Any]],
    work: Workload,
    rng: random.Random,
    vocab_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Load the model and run the workload once, on random ids so that no cache helps."""
    depth_ids = random_ids(rng, work.depth, vocab_size)
    prompt_ids = random_ids(rng, work.prompt_tokens, vocab_size)
    reset_peak_rss()
    start = clock()
    model = load()
    session = model.session(SamplingParams(ignore_eos=True))
    load_s = clock() - start
    if depth_ids:
        session.prefill(depth_ids)
    before_prompt = clock()
    session.prefill(prompt_ids)
    after_prompt = clock()
    session.decode(1)
    after_first = clock()
    session.decode(work.gen_tokens)
    after_last = clock()
    return Measurement(
        prefill_tokens_per_s=work.prompt_tokens / (after_prompt - before_prompt),
        decode_tokens_per_s=work.gen_tokens / (after_last - after_first),
        load_ms=1e3 * load_s,
        first_token_ms=1e3 * (load_s + after_first - before_prompt),
        peak_rss_mib=(peak_rss_bytes() or 0) / MIB,
        drafted_tokens=session.num_drafted,
        draft_acceptance=session.num_accepted / max(1, session.num_drafted),
    )


def summary(measurements: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    """Median, min and max of every figure over the repeats."""
    report: dict[str, dict[str, float]] = {}
    for name in (*FIGURES, *DRAFT_FIGURES):
        values = [getattr(measurement, name) for measurement in measurements]
        report[name] = {"median": median(values), "min": min(values), "max": max(values)}
    return report


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{report['model']} ({report['weights']}, {report['weights_bytes'] / MIB:.1f} MiB), "
        f"{report['isa']}, {report['threads']} threads",
        f"prompt {report['prompt_tokens']}, generated {report['gen_tokens']}, "
        f"depth {report['depth']}, median of {report['repeat']} (min, max)",
    ]
    for name in (*FIGURES, *(DRAFT_FIGURES if report["draft_model"] else ())):
        figure = report[name]
        digits = 2 if name == "draft_acceptance" else 1
        spread = f"({figure['min']:.{digits}f}, {figure['max']:.{digits}f})"
        lines.append(f"{name:<21}{figure['median']:>10.{digits}f}  {spread}")
    return lines
