"""What `autoglm compress --eval` measures: quality, size and speed beside the model in bf16."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from autoglm.cli.compress_task import TaskScore, compared_scores, rouge1_of
from autoglm.cli.output import Progress
from autoglm.compression.exchanges import read_exchanges
from autoglm.compression.pipeline import Compression, compress
from autoglm.compression.quality import compared, default_texts
from autoglm.compression.recipe import parse_recipe
from autoglm.errors import ResourceError
from autoglm.modelfile.bundle import open_bundle

MIB = 2**20
_REFERENCE = parse_recipe("bf16", 'weights = "bf16"\n')
_PROMPT_TOKENS, _GEN_TOKENS, _REPEAT = 256, 64, 3
_SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s", "peak_rss_mib")


def measured(
    made: Compression, model: str, texts: Sequence[str], tasks: Sequence[str]
) -> dict[str, object]:
    """The figures of a bundle. The model in bf16 lies beside it while this runs."""
    with tempfile.TemporaryDirectory(dir=made.path.parent, prefix=f".{made.path.name}.") as work:
        reference = compress(model, _REFERENCE, out=Path(work) / "bf16")
        qualities = compared(
            made.path, reference.path, [Path(text) for text in texts] or default_texts()
        )
        scores = _scores(made.path, reference.path, [Path(task) for task in tasks])
        speeds, others = _speeds(made.path), _speeds(reference.path)
    return {
        "quality": [asdict(quality) for quality in qualities],
        "task": [asdict(score) for score in scores],
        **{name: speeds[name] for name in _SPEEDS},
        **{f"bf16_{name}": others[name] for name in _SPEEDS},
        "bf16_bytes": reference.weights_bytes,
    }


def lines(report: Mapping[str, object], weights_bytes: int) -> list[str]:
    """The figures for people."""
    found = []
    qualities, tasks = report["quality"], report["task"]
    for one in qualities if isinstance(qualities, list) else []:
        found.append(
            f"{one['text']}: perplexity {one['perplexity']:.3f} "
            f"({one['perplexity_low']:.3f} to {one['perplexity_high']:.3f}), "
            f"{one['rise_percent']:+.2f} % to bf16 "
            f"({one['rise_percent_low']:+.2f} to {one['rise_percent_high']:+.2f})"
        )
    for one in tasks if isinstance(tasks, list) else []:
        found.append(
            f"{one['task']}: ROUGE-1 {one['rouge1']:.2f} "
            f"({one['rouge1_low']:.2f} to {one['rouge1_high']:.2f}), "
            f"{one['difference']:+.2f} points to bf16 "
            f"({one['difference_low']:+.2f} to {one['difference_high']:+.2f}), "
            f"{one['num_rows']} rows"
        )
    for name, unit in zip(_SPEEDS, ("tokens/s", "tokens/s", "MiB"), strict=True):
        own, other = float(str(report[name])), float(str(report[f"bf16_{name}"]))
        what = name.partition("_")[0]
        found.append(f"{what}: {own:.1f} {unit}, bf16 {other:.1f} ({own / other:.2f}x)")
    whole = float(str(report["bf16_bytes"]))
    found.append(f"size: {weights_bytes / MIB:.1f} MiB, {whole / weights_bytes:.2f} times smaller")
    return found


def _scores(bundle: Path, reference: Path, paths: Sequence[Path]) -> list[TaskScore]:
    tasks = [read_exchanges(path) for path in paths]
    if not tasks:
        return []
    total = sum(len(task) for task in tasks)
    with Progress("answering", total=2 * total, unit="rows", shows_time_left=True) as bar:
        own = rouge1_of(bundle, tasks, bar.update)
        others = rouge1_of(reference, tasks, lambda done: bar.update(total + done))
    return [
        compared_scores(path.stem, mine, theirs)
        for path, mine, theirs in zip(paths, own, others, strict=True)
    ]


def _speeds(path: Path) -> dict[str, float]:
    """Medians in a process of its own, which is what memory is measured of."""
    context = open_bundle(path).max_position
    numbers = {
        "--prompt-tokens": min(_PROMPT_TOKENS, context // 2),
        "--gen-tokens": min(_GEN_TOKENS, context // 4),
        "--repeat": _REPEAT,
    }
    command = [sys.executable, "-m", "autoglm", "bench", "--model", str(path), "--json"]
    for option, number in numbers.items():
        command += [option, str(number)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        message = f"{path}: cannot be measured: {done.stderr.decode(errors='replace')[-300:]}"
        raise ResourceError(message)
    report = json.loads(done.stdout)
    return {name: float(report[name]["median"]) for name in _SPEEDS}
