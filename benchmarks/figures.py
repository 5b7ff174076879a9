"""`make bench`: measure the figures the README states, each against its target.

A run in which other programs used more than 0.1 processors is repeated, and flagged if it stays so.
Writes benchmarks/results/<time>.json; --readme also puts the table into README.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from many_requests import PROMPT
from quiet import MAX_OTHER_CPUS, measured

from autoglm import __version__, _core
from autoglm.hardware.probe import probe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
MIB = 2**20
KIB = 1024
PROMPT_TOKENS, NEW_TOKENS = 256, 32
IMPORT_CODE = (
    "import time; start = time.perf_counter(); {}; print(1e3 * (time.perf_counter() - start))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number; `limit` is what it must not pass, in the direction of `is_ceiling`."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    runs: int
    other_cpus: float
    limit: float | None = None
    is_ceiling: bool = True

    @property
    def verdict(self) -> str:
        """pass, FAIL, or nothing without a limit; a noisy run is marked."""
        noise = " (noisy)" if self.other_cpus > MAX_OTHER_CPUS else ""
        if self.limit is None:
            return noise.strip()
        is_met = self.value <= self.limit if self.is_ceiling else self.value >= self.limit
        return ("pass" if is_met else "FAIL") + noise


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share."""

    threads: int
    attempts: int
    runs: int

    def python(self, *arguments: str) -> str:
        """Standard output of a Python program."""
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The JSON document a Python program prints."""
        return json.loads(self.python(*arguments))

    def figure(
        self, name: str, unit: str, work: Callable[[], list[float]], limit: float | None
    ) -> Figure:
        """Median of several runs, against a ceiling if there is one."""
        run = measured(work, attempts=self.attempts)
        low, high = min(run.value), max(run.value)
        return Figure(
            name=name,
            unit=unit,
            value=median(run.value),
            low=low,
            high=high,
            runs=len(run.value),
            other_cpus=run.other_cpus,
            limit=limit,
        )


def import_time(bench: Bench, statement: str, limit: float | None = None) -> Figure:
    """An import in a fresh interpreter."""
    code = IMPORT_CODE.format(statement)

    def work() -> list[float]:
        return [float(bench.python("-c", code)) for _ in range(2 * bench.runs)]

    return bench.figure(statement, "ms", work, limit)


def whole_process(bench: Bench) -> Iterator[Figure]:
    """`autoglm generate` from exec: first byte of the answer, and peak memory of the process.

    Once as users run it, where the reader answers, and once with the model alone.
    """
    script = str(ROOT / "benchmarks" / "many_requests.py")
    text = bench.python(script, "--print-text", "--prompt-tokens", str(PROMPT_TOKENS))
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        command = [sys.executable, "-m", "autoglm", "generate", PROMPT, "--file", stream.name]
        command += ["--stream", "--offline", "--max-tokens", str(NEW_TOKENS)]
        command += ["--threads", str(bench.threads)]
        yield from _process_figures(bench, "LITE", command)
        yield from _process_figures(bench, "LITE without reader", [*command, "--no-reader"])


def _process_figures(bench: Bench, label: str, command: list[str]) -> Iterator[Figure]:
    _generate_once(command)
    run = measured(
        lambda: [_generate_once(command) for _ in range(bench.runs)], attempts=bench.attempts
    )
    columns = zip(*run.value, strict=True)
    rows = (("exec to first token", "ms", 500.0), ("peak memory of generate", "MiB", 200.0))
    for (name, unit, limit), values in zip(rows, columns, strict=True):
        yield Figure(
            name=f"{label}: {name}, prompt {PROMPT_TOKENS}",
            unit=unit,
            value=median(values),
            low=min(values),
            high=max(values),
            runs=len(values),
            other_cpus=run.other_cpus,
            limit=limit,
        )


def _generate_once(command: list[str]) -> tuple[float, float]:
    """Milliseconds from before exec to the first byte, and peak resident MiB."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        stdout = process.stdout
        if stdout is None or not os.read(stdout.fileno(), 1):
            message = "generate wrote no answer"
            raise RuntimeError(message)
        first_ms = 1e3 * (time.perf_counter() - start)
        while os.read(stdout.fileno(), 65536):
            pass
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        message = f"generate ended with {process.returncode}"
        raise RuntimeError(message)
    return first_ms, usage.ru_maxrss * KIB / MIB


def many_requests(bench: Bench) -> Figure:
    """P95 over requests in one process."""
    script = str(ROOT / "benchmarks" / "many_requests.py")
    run = measured(
        lambda: bench.json(script, "--threads", str(bench.threads)), attempts=bench.attempts
    )
    report = run.value
    return Figure(
        name=f"LITE: P95 of {report['requests']} requests, {PROMPT_TOKENS} + {NEW_TOKENS} tokens",
        unit="ms",
        value=report["p95_ms"],
        low=report["min_ms"],
        high=report["max_ms"],
        runs=report["requests"],
        other_cpus=run.other_cpus,
        limit=400,
    )


def model_speed(bench: Bench, label: str, model: Path | None, limits: bool) -> Iterator[Figure]:
    """Prefill, decode and memory by `autoglm bench`."""
    where = () if model is None else ("--model", str(model))
    options = ("--prompt-tokens", "512", "--gen-tokens", "64", "--repeat", "5", "--json")
    threads = ("--threads", str(bench.threads))
    run = measured(
        lambda: bench.json("-m", "autoglm", "bench", *where, *options, *threads),
        attempts=bench.attempts,
    )
    report = run.value
    rows = (
        ("prefill 512", "tokens/s", "prefill_tokens_per_s", 150.0, False),
        ("decode 64 after 512", "tokens/s", "decode_tokens_per_s", 12.0, False),
        ("peak memory", "MiB", "peak_rss_mib", report["weights_bytes"] / MIB + 200, True),
    )
    for name, unit, key, limit, is_ceiling in rows:
        yield Figure(
            name=f"{label} {report['weights']}: {name}",
            unit=unit,
            value=report[key]["median"],
            low=report[key]["min"],
            high=report[key]["max"],
            runs=report["repeat"],
            other_cpus=run.other_cpus,
            limit=limit if limits else None,
            is_ceiling=is_ceiling,
        )


def machine_line(threads: int) -> str:
    """The processor and how it is used."""
    machine, cpu = probe(), _core.cpu_info()
    memory = (machine.memory_total_bytes or 0) / 2**30
    return (
        f"{machine.cpu_model}, {machine.physical_cores} cores, {memory:.0f} GiB, kernels: "
        f"{cpu['isa']}, {threads} threads, autoglm {__version__}, Python {sys.version.split()[0]}"
    )


def table(figures: list[Figure]) -> str:
    """The figures as Markdown."""
    lines = ["| figure | median (min, max) | target | |", "|--|--|--|--|"]
    for figure in figures:
        spread = f"{figure.value:.1f} ({figure.low:.1f}, {figure.high:.1f}) {figure.unit}"
        sign = "≤" if figure.is_ceiling else "≥"
        target = "" if figure.limit is None else f"{sign} {figure.limit:.0f}"
        lines.append(f"| {figure.name} | {spread} | {target} | {figure.verdict} |")
    return "\n".join(lines)


def update_readme(text: str) -> None:
    """Replace what stands between the markers."""
    readme = README.read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Measure, print and save; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", metavar="DIR", type=Path, help="a larger bundle, int4")
    parser.add_argument("--label", default="GLM-Edge-1.5B shape", help="what to call it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--attempts", type=int, default=3, help="tries for a quiet run")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    args = parser.parse_args()
    bench = Bench(threads=args.threads, attempts=args.attempts, runs=args.runs)
    figures = [
        import_time(bench, "import autoglm", 30),
        import_time(bench, "from autoglm import AutoGLMClient"),
        *whole_process(bench),
        many_requests(bench),
    ]
    figures += model_speed(bench, "LITE", None, limits=False)
    if args.model:
        figures += model_speed(bench, args.label, args.model, limits=True)
    now = datetime.datetime.now(tz=datetime.UTC)
    machine = machine_line(args.threads)
    text = f"{machine}; {now:%Y-%m-%d}, warm page cache.\n\n{table(figures)}"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    saved = {"machine": machine, "time": now.isoformat(), "figures": list(map(asdict, figures))}
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.readme:
        update_readme(text)
    return int(any("FAIL" in figure.verdict for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
