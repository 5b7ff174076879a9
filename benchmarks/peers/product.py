"""Rows that only the product as users run it can fill: the command, many requests, drafts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quiet import measured

from autoglm.config import FAST
from peers.engines import PRODUCT
from peers.turn import peak_of
from peers.workload import FIRST_TOKEN, MEMORY_FIRST, Sample

BENCHMARKS = Path(__file__).parents[1]
MAX_STARTS = 5
# 26 bytes: with the template's control tokens a prompt of 32 tokens of the random models.
SHORT_TEXT = "Please write one sentence."
REQUESTS_P95 = "P95 of 200 requests"
LOOKUP_QUOTES, LOOKUP_NEW = "prompt lookup, quoting text", "prompt lookup, new text"


def first_token(model: Path | None) -> tuple[float, float]:
    """Seconds from before exec to the first byte of the answer, and peak resident MiB by then."""
    for _ in range(MAX_STARTS):
        seconds, peak_mib = _start_once(model)
        if peak_mib is not None:
            return seconds, peak_mib
    message = "generate always ended before its memory could be read"
    raise RuntimeError(message)


def _start_once(model: Path | None) -> tuple[float, float | None]:
    where = () if model is None else ("--model", str(model))
    command = [sys.executable, "-m", "autoglm", "generate", SHORT_TEXT, *where]
    command += ["--stream", "--offline", "--max-tokens", "1"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None or not process.stdout.read(1):
            message = "generate wrote no answer"
            raise RuntimeError(message)
        seconds = time.perf_counter() - start
        peak_mib = peak_of(process.pid)
        process.stdout.read()
    if process.returncode:
        message = f"generate ended with {process.returncode}"
        raise RuntimeError(message)
    return seconds, peak_mib


def first_token_samples(label: str, model: Path | None, runs: int, attempts: int) -> list[Sample]:
    """The command from exec to the first token, once unmeasured to warm the page cache."""
    first_token(model)
    samples = []
    for number in range(runs):
        run = measured(lambda: first_token(model), attempts=attempts)
        for row, value in zip((FIRST_TOKEN, MEMORY_FIRST), run.value, strict=True):
            samples.append(_sample(label, row, value, run.other_cpus, number))
    return samples


def request_samples(label: str, threads: int, attempts: int) -> list[Sample]:
    """P95 of requests of 256 + 32 tokens to LITE in one process, in ms."""
    script = [str(BENCHMARKS / "many_requests.py"), "--threads", str(threads)]
    run = measured(lambda: _document(script), attempts=attempts)
    return [_sample(label, REQUESTS_P95, run.value["p95_ms"], run.other_cpus)]


def lookup_samples(label: str, threads: int, attempts: int) -> list[Sample]:
    """Decode speed with drafts from the text so far, as a multiple of that without."""
    script = BENCHMARKS / "prompt_lookup.py"
    if not script.exists():
        return []
    run = measured(
        lambda: _document([str(script), "--threads", str(threads), "--json"]), attempts=attempts
    )
    return [
        _sample(label, row, run.value[key], run.other_cpus)
        for row, key in ((LOOKUP_QUOTES, "quoting"), (LOOKUP_NEW, "new"))
    ]


def _document(arguments: Sequence[str]) -> Any:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return json.loads(done.stdout)


def profile(model: Path, threads: int, depth: int, attempts: int) -> dict[str, Any]:
    """`autoglm profile --json` of a model, with the limits of the machine."""
    command = ["-m", "autoglm", "profile", "--model", str(model), "--threads", str(threads)]
    options = ["--prompt-tokens", "512", "--gen-tokens", "16", "--depth", str(depth), "--json"]
    options += ["--precision", FAST]
    run = measured(lambda: _document([*command, *options]), attempts=attempts)
    report: dict[str, Any] = run.value
    return {**report, "other_cpus": run.other_cpus}


def int8_peak(program: Path, threads: int, attempts: int) -> float:
    """Int8 multiplications and additions a second, of registers alone; the best of all tries."""

    def work() -> float:
        done = subprocess.run([program, str(threads)], capture_output=True, check=True)
        return float(done.stdout)

    return max(work() for _ in range(attempts))


def _sample(label: str, row: str, value: float, other_cpus: float, number: int = 0) -> Sample:
    return Sample(
        engine=PRODUCT,
        model=label,
        row=row,
        round=number,
        value=value,
        other_cpus=other_cpus,
    )
