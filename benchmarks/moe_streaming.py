"""`make bench-moe`: a mixture larger than its memory cap, experts streamed against plain mmap.

Writes a random bundle in the shape of GLM-4.5-Air (7.2 GB, removed at the end), then runs both ways
in a memory control group whose limit covers anonymous memory and page cache alike.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from memory_cap import MemoryCap, memory_cap
from quiet import MAX_OTHER_CPUS, Quiet, measured
from random_mixture import LAYERS, VOCAB, shape, write_bundle

WORKER = Path(__file__).with_name("mixture_worker.py")
MIB = 2**20
# What a process needs beside its pool of experts: other weights, scratch, the interpreter.
RESERVE_MIB = 900
NOTES = """
The weights are random: hit rates and predictions say how the machinery works, not what a trained
router gives. Under even routing the hit rate would be the share of experts that fit; neighbouring
tokens of a random model resemble each other, which lifts it. The cap is a control group: it counts
the page cache that mmap fills as well as anonymous memory. Before every run the file is dropped
from the page cache. Bytes read are those fetched from storage for the process (/proc/self/io),
read-ahead included. The kernel's own reclaim may mark a mapped run as noisy.
""".strip()
NO_CAP = """
No memory cap can be made here ({reason}). A resource limit would not do: it does not count the page
cache, so plain mmap would not feel it. Only streaming is measured, whose memory its pool bounds.
""".strip()
Report = dict[str, float]


def main() -> int:
    """Write the model, measure, print the table, remove the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--model", type=Path, help="a bundle written before, which stays")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--cap", metavar="MIB", type=int, action="append", dest="caps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--warm-tokens", type=int, default=32)
    parser.add_argument("--gen-tokens", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    results: list[dict[str, object]] = []
    with _model(args) as model:
        size_mib = (model / "model.safetensors").stat().st_size / MIB
        _say(
            f"model {size_mib:.0f} MiB, {args.threads} threads, prompt {args.prompt_tokens}, "
            f"{args.gen_tokens} tokens timed after {args.warm_tokens}, median of {args.repeat}\n"
        )
        for cap_mib in args.caps or [4096, 2560]:
            results += _measure_cap(args, model, cap_mib)
    _say("\n" + NOTES)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


@contextmanager
def _model(args: argparse.Namespace) -> Iterator[Path]:
    if args.model is not None:
        yield args.model
        return
    with tempfile.TemporaryDirectory(prefix="autoglm-moe-", dir=args.directory) as parent:
        expert_bytes = 1.15 * 2**30
        if shutil.disk_usage(parent).free < (args.layers + 1) * expert_bytes:
            message = f"{args.directory}: too little space for {args.layers} layers"
            raise SystemExit(message)
        path = Path(parent) / "model"
        write_bundle(path, shape(args.layers, VOCAB))
        yield path


def _measure_cap(args: argparse.Namespace, model: Path, cap_mib: int) -> list[dict[str, object]]:
    """Both ways under one cap, taking turns."""
    budget_mib = cap_mib - RESERVE_MIB
    runs: dict[int, list[Quiet[Report]]] = {budget_mib: [], 0: []}
    try:
        for _ in range(args.repeat):
            for budget, reports in runs.items():
                with memory_cap(cap_mib * MIB) as cap:
                    reports.append(_run(args, model, budget, cap))
    except OSError as err:
        _say(NO_CAP.format(reason=err))
        del runs[0]
        runs[budget_mib] = [_run(args, model, budget_mib, None) for _ in range(args.repeat)]
    results = [_summary(cap_mib, budget, reports) for budget, reports in runs.items()]
    _say(_table(results))
    return results


def _run(
    args: argparse.Namespace, model: Path, budget_mib: int, cap: MemoryCap | None
) -> Quiet[Report]:
    """One fresh process, its file out of the page cache."""
    command = [sys.executable, str(WORKER), str(model), f"--expert-memory={budget_mib}"]
    names = ("threads", "prompt_tokens", "warm_tokens", "gen_tokens")
    command += [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    if cap is not None:
        command.append(f"--group={cap.path}")
    descriptor = os.open(model / "model.safetensors", os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)

    def work() -> Report:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        report: Report = json.loads(done.stdout)
        if cap is not None:
            report["peak_group_mib"] = (cap.peak_bytes() or 0) / MIB
        return report

    return measured(work, attempts=1)


def _summary(cap_mib: int, budget_mib: int, runs: list[Quiet[Report]]) -> dict[str, object]:
    names = runs[0].value
    return {
        "experts": f"streamed, {budget_mib} MiB" if budget_mib else "plain mmap",
        "cap_mib": cap_mib,
        "other_cpus": max(run.other_cpus for run in runs),
        **{name: median(run.value[name] for run in runs) for name in names},
    }


def _table(results: list[dict[str, object]]) -> str:
    columns = {
        "prompt tokens/s": "prompt_tokens_per_s",
        "decode tokens/s": "decode_tokens_per_s",
        "hit rate": "hit_rate",
        "foreseen": "foreseen_rate",
        "MiB read/token": "read_mib_per_token",
        "major faults/token": "major_faults_per_token",
        "peak RSS MiB": "peak_rss_mib",
        "peak group MiB": "peak_group_mib",
    }
    lines = [
        f"cap {results[0]['cap_mib']} MiB",
        "| experts | " + " | ".join(columns) + " |",
        "|--" * (len(columns) + 1) + "|",
    ]
    for result in results:
        is_noisy = float(str(result["other_cpus"])) > MAX_OTHER_CPUS
        cells = [f"{result.get(key, 0.0):.2f}" for key in columns.values()]
        name = f"{result['experts']}{' (noisy)' if is_noisy else ''}"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
