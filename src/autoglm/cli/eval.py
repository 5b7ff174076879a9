"""Score a model on public tasks, next to what needs no model.

The model answers as for a user: whole texts in, split and merged where they do not fit.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoglm.cli.interrupt import exit_on_interrupt
from autoglm.cli.options import (
    add_json_option,
    add_model_option,
    add_reader_option,
    add_threads_option,
    whole_number,
)
from autoglm.cli.output import Progress, print_json, print_text
from autoglm.cli.score import windowed_nll
from autoglm.config import Settings, load_settings
from autoglm.errors import InputError, UsageError, require
from autoglm.runtime import Runtime
from autoglm.types import Cancellation, Message, Request

if TYPE_CHECKING:
    from autoglm.lite.evaluation.items import Item, Task

EXTRA = "eval"
PROBE = "clinc150_probe"
WINDOW, STRIDE = 1024, 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--suite", choices=("lite",), default="lite", help="which tasks there are")
    parser.add_argument(
        "--data", metavar="DIR", required=True, help="directory with the public sets, see the guide"
    )
    parser.add_argument(
        "--tasks", metavar="NAME", nargs="+", help="only these (default: all whose set is there)"
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole_number(1),
        help="items of each task, evenly spread (default: all)",
    )
    parser.add_argument(
        "--no-baselines",
        dest="has_baselines",
        action="store_false",
        help="score summaries of the model only: TextRank and the oracle take most of the time",
    )
    parser.add_argument(
        "--answers", metavar="FILE", help="keep the answers here; an interrupted run goes on"
    )
    add_model_option(parser)
    add_reader_option(parser)
    add_threads_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the scores of every task."""
    require("rouge_score", extra=EXTRA)
    require("zstandard", extra=EXTRA)
    settings = load_settings({"model": args.model, "threads": args.threads, "reader": args.reader})
    data_dir = Path(args.data)
    if not data_dir.is_dir():
        message = f"{data_dir}: not a directory; --data names the one with the public sets"
        raise InputError(message)
    with exit_on_interrupt():
        report = _evaluate(args, data_dir, settings)
    if args.json:
        print_json(report)
    else:
        print_text("\n".join(_lines(report)))
    return 0


def _evaluate(args: argparse.Namespace, data_dir: Path, settings: Settings) -> dict[str, Any]:
    from autoglm.lite.evaluation.items import load_items
    from autoglm.lite.evaluation.suite import AnswerFile, run_task

    chosen, measures, missing = _choose(data_dir, args.tasks)
    runtime = Runtime(settings)
    runtime.load()
    kept = AnswerFile(Path(args.answers) if args.answers else None, _fingerprint(settings))

    def answer(item: Item, max_tokens: int) -> str:
        request = Request(
            messages=(Message("user", item.prompt),), text=item.text, max_tokens=max_tokens
        )
        return "".join(chunk.text for chunk in runtime.stream(request)).strip()

    tasks: dict[str, Any] = {}
    for task in chosen:
        items = load_items(data_dir, task, args.limit or 0)
        with Progress(task.name, total=len(items), unit="items", shows_time_left=True) as bar:
            tasks[task.name] = run_task(
                task, items, answer, kept, bar.update, has_baselines=args.has_baselines
            )
    for name in measures:
        measure = _probe if name == PROBE else _perplexity
        tasks[name] = measure(runtime, data_dir, name, args.limit)
    return {
        "suite": args.suite,
        "model": settings.model or "lite",
        "limit": args.limit,
        "missing": missing,
        "tasks": tasks,
    }


def _choose(data_dir: Path, names: list[str] | None) -> tuple[list[Task], list[str], list[str]]:
    """Tasks and other measures to take, and what lacks its set. Raises UsageError, InputError."""
    from autoglm.lite.evaluation import probe
    from autoglm.lite.evaluation.items import TASKS, has_set
    from autoglm.lite.evaluation.texts import TEXTS, has_text

    is_there = {task.name: has_set(data_dir, task.file) for task in TASKS}
    is_there[PROBE] = has_set(data_dir, probe.FILE)
    is_there |= {name: has_text(data_dir, name) for name in TEXTS}
    for name in names or ():
        if name not in is_there:
            message = f"unknown task {name!r}; the tasks are {', '.join(is_there)}"
            raise UsageError(message)
    wanted = names or list(is_there)
    if not any(is_there[name] for name in wanted):
        message = f"{data_dir}: holds none of the sets of {', '.join(wanted)}; check --data"
        raise InputError(message)
    tasks = [task for task in TASKS if task.name in wanted and is_there[task.name]]
    measures = [name for name in (PROBE, *TEXTS) if name in wanted and is_there[name]]
    return tasks, measures, [name for name in wanted if not is_there[name]]


def _fingerprint(settings: Settings) -> str:
    """Which model the answers are of: a hash of its manifest, else where it lies."""
    from autoglm.engine.model import embedded_model
    from autoglm.modelfile.manifest import MANIFEST_NAME

    path = Path(settings.model) if settings.model else embedded_model()
    manifest = path / MANIFEST_NAME
    mark = "" if settings.reader else ", no reader"
    if not manifest.is_file():
        return f"{path.resolve()}{mark}"
    return hashlib.sha256(manifest.read_bytes()).hexdigest() + mark


def _probe(runtime: Runtime, data_dir: Path, name: str, limit: int | None) -> dict[str, Any]:
    """Intents by a linear classifier over the model's states."""
    from autoglm.lite.evaluation.probe import probe

    engine = runtime.engine()

    def embed(text: str) -> list[float]:
        return engine.embed(engine.token_ids(text), Cancellation())

    with Progress(name, unit="utterances") as bar:
        return probe(data_dir, embed, limit, bar.update)


def _perplexity(runtime: Runtime, data_dir: Path, name: str, limit: int | None) -> dict[str, Any]:
    """Bits per byte, which compares tokenizers, and perplexity per token."""
    from autoglm.lite.evaluation.texts import load_text

    engine = runtime.engine()
    text = load_text(data_dir, name, limit)
    ids = engine.token_ids(text)
    window = min(WINDOW, engine.context_tokens)

    def score(part: list[int]) -> float:
        return -sum(p.logprob for p in engine.logprobs(part, 0, Cancellation()))

    with Progress(name, total=len(ids), unit="tokens", shows_time_left=True) as bar:
        nll = windowed_nll(
            ids, score, window=window, stride=min(STRIDE, window // 2), on_progress=bar.update
        )
    num_tokens = len(ids) - 1
    bits = nll / math.log(2) / len(text.encode())
    model = {"perplexity": round(math.exp(nll / num_tokens), 3), "bits_per_byte": round(bits, 4)}
    return {"num": num_tokens, "model": model}


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield f"{report['model']}, suite {report['suite']}"
    for name, task in report["tasks"].items():
        for system, metrics in task.items():
            if isinstance(metrics, dict):
                scores = "  ".join(f"{metric} {value:g}" for metric, value in metrics.items())
                yield f"{name:<15}{system:<9}n={task['num']:<6}{scores}"
    if report["missing"]:
        yield f"left out, as their sets are not there: {', '.join(report['missing'])}"
