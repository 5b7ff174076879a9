"""Show where the time of a model goes: by layer and step, against the limits of the machine."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from autoglm.cli.interrupt import exit_on_interrupt
from autoglm.cli.options import (
    add_json_option,
    add_model_option,
    add_precision_option,
    add_threads_option,
)
from autoglm.cli.output import Progress, print_json, print_text
from autoglm.cli.workload import Workload, add_workload_options, random_ids, workload
from autoglm.config import Settings, load_settings
from autoglm.engine.model import embedded_model
from autoglm.engine.native import NativeModel
from autoglm.errors import UsageError
from autoglm.modelfile.bundle import Bundle, open_bundle
from autoglm.telemetry import table
from autoglm.telemetry.plot import svg
from autoglm.telemetry.profile import Phase, Profile, as_json
from autoglm.telemetry.trace import trace
from autoglm.types import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_option(parser)
    add_workload_options(parser)
    add_threads_option(parser)
    add_precision_option(parser)
    parser.add_argument(
        "--trace",
        metavar="FILE.json",
        type=Path,
        help="write every step for chrome://tracing or ui.perfetto.dev",
    )
    parser.add_argument("--plot", metavar="FILE.svg", type=Path, help="write a picture")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables and write the files asked for."""
    settings = load_settings(
        {"model": args.model, "threads": args.threads, "precision": args.precision}
    )
    _check_target(args.trace, "--trace", ".json")
    _check_target(args.plot, "--plot", ".svg")
    path = Path(settings.model) if settings.model else embedded_model()
    bundle = open_bundle(path)
    work = workload(args, bundle.max_position)
    with exit_on_interrupt():
        profile = _measure(path, bundle, work, settings)
    if args.trace:
        args.trace.write_text(json.dumps(trace(profile)), encoding="utf-8")
    if args.plot:
        args.plot.write_text(svg(profile), encoding="utf-8")
    if args.json:
        print_json(as_json(profile))
    else:
        print_text("\n".join(table.lines(profile)))
    return 0


def _check_target(path: Path | None, option: str, suffix: str) -> None:
    """Refuse before the work what could not be written after it."""
    if path is None:
        return
    if path.suffix != suffix:
        message = f"{option} writes {suffix} files, not {path.name!r}; name one that ends so"
        raise UsageError(message)
    if not path.parent.is_dir():
        message = f"{option}: there is no directory {path.parent}"
        raise UsageError(message)


def _measure(path: Path, bundle: Bundle, work: Workload, settings: Settings) -> Profile:
    """One run after a short one that brings the weights into memory; random ids, no drafts."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return random_ids(rng, count, bundle.config.vocab_size)

    with Progress("measuring", total=4, unit="parts") as progress:
        model = NativeModel(
            bundle,
            pool_tokens=work.context_tokens,
            threads=settings.threads,
            has_prompt_lookup=False,
            precision=settings.precision,
        )
        limits = model.measure_limits()
        progress.update(1)
        greedy = SamplingParams(ignore_eos=True)
        model.session(greedy).prefill(ids(1))
        session = model.session(greedy)
        if work.depth:
            session.prefill(ids(work.depth))
        progress.update(2)
        prompt = ids(work.prompt_tokens)
        reading = _phase(model, "prompt", work.prompt_tokens, lambda: session.prefill(prompt))
        progress.update(3)
        session.decode(1)  # sampled from the logits of the prompt, without a pass of its own
        writing = _phase(
            model, "generation", work.gen_tokens, lambda: session.decode(work.gen_tokens)
        )
    return Profile(
        model=str(path),
        weights=bundle.weights,
        isa=model.isa,
        threads=model.threads,
        depth=work.depth,
        limits=limits,
        phases=(reading, writing),
    )


def _phase(model: NativeModel, name: str, num_tokens: int, call: Callable[[], object]) -> Phase:
    model.start_profile()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return Phase(name=name, num_tokens=num_tokens, seconds=seconds, events=model.stop_profile())
