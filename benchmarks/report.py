"""Renders results of bench_peers.py and quality.py into BENCHMARKS.md and README.md, with plots.

Usage: report.py [--results FILE] [--quality FILE]; by default the latest run, with its quality.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plots
from peers import workload
from peers.campaign import write_document
from peers.rows import median_of
from peers.summary import Results, complete, latest, number, read_results, short_table, table
from peers.targets import LARGE, SMALL, Scale
from peers.workload import Sample
from quality import table as quality_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLOTS = ROOT / "benchmarks" / "plots"
PAGE = ROOT / "BENCHMARKS.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- report: begin -->", "<!-- report: end -->"
README_BEGIN, README_END = "<!-- peers: begin -->", "<!-- peers: end -->"
MODELS = {
    LARGE: "GLM-Edge-1.5B shape",
    SMALL: "60m shape",
    f"{LARGE}, avx512": "GLM-Edge-1.5B shape, AVX-512 VNNI only",
    f"{LARGE}, avx2": "GLM-Edge-1.5B shape, AVX2 only",
}
COLUMNS = (
    workload.PREFILL,
    workload.PREFILL_LONG,
    workload.DECODE,
    workload.DECODE_DEEP,
    workload.ROWS,
    workload.ROWS_SPEED,
    workload.FIRST_TOKEN,
    workload.MEMORY_FIRST,
    workload.MEMORY_PEAK,
    workload.MEMORY_SECOND,
)


def engine_table(model: str, results: Results) -> str:
    """Every engine on one model, all rows, medians; and what its rounding costs."""
    head = ("engine", "form", "perplexity", *COLUMNS)
    lines = ["| " + " | ".join(head) + " |", "|--" * len(head) + "|"]
    of_model = [sample for sample in results.samples if sample.model == model]
    for engine in dict.fromkeys(sample.engine for sample in of_model):
        form = results.forms.get(engine)
        cells = [engine, form.text if form else "", results.cost(engine, model).rise_text]
        for row in COLUMNS:
            found = [s for s in of_model if (s.engine, s.row) == (engine, row)]
            middle = median_of(found) if found else None
            noisy = " (noisy)" if middle and middle.is_noisy else ""
            cells.append(number(middle.value) + noisy if middle else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def limits_line(scale: Scale) -> str:
    """What the machine can do."""
    return (
        f"Measured limits: {scale.read_bytes_per_s / 1e9:.1f} GB/s read, "
        f"{scale.operations_per_s / 1e12:.1f} TOPS of int8; "
        f"the int4 bundle has {scale.weights_mib:.0f} MiB."
    )


def noise_line(samples: Sequence[Sample]) -> str:
    """How many timings something else disturbed in every try."""
    timed = [sample for sample in samples if sample.other_cpus is not None]
    quiet = sum(median_of([sample]).is_noisy is False for sample in timed)
    return f"{quiet} of {len(timed)} timings were quiet; rows without one are marked noisy."


def page(saved: dict[str, Any]) -> str:
    """The generated part of BENCHMARKS.md."""
    results, quality = read_results(saved), saved.get("quality")
    parts = [
        f"{saved['machine']}; {saved['time'][:10]}, warm page cache.",
        f"{limits_line(results.scale)} {noise_line(results.samples)}",
        "## Targets",
        table(results),
        "![ratio to the best peer](benchmarks/plots/ratios.svg)",
        "## Engines",
    ]
    for model, title in MODELS.items():
        parts += [f"**{title}** (tokens/s, x, s, MiB)", engine_table(model, results)]
    parts += [
        "![decode speed against depth](benchmarks/plots/depth.svg)",
        "![roofline](benchmarks/plots/roofline.svg)",
    ]
    if quality is not None:
        parts += ["## Quality", quality_line(quality), quality_table(results.scores)]
    return "\n\n".join(parts)


def quality_line(quality: dict[str, Any]) -> str:
    """What the perplexities are of."""
    return (
        f"Perplexity of {quality['model']} over windows of {quality['window']} tokens, and its "
        "rise against bf16 weights, 16-bit activations and a float cache. A mixture such as "
        "`int4,self_attn=int8` rounds the weights so and computes the rest in floats."
    )


def replace_between(path: Path, begin: str, end: str, text: str) -> None:
    """Put text where a page has a generated part."""
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def draw(saved: dict[str, Any]) -> None:
    """Every plot."""
    results = read_results(saved)
    PLOTS.mkdir(exist_ok=True)
    plots.ratios(results.rows, PLOTS / "ratios.svg")
    plots.depth(results.samples, LARGE, PLOTS / "depth.svg")
    plots.roofline(saved["profiles"], PLOTS / "roofline.svg")


def main() -> int:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", metavar="FILE", type=Path)
    parser.add_argument("--quality", metavar="FILE", type=Path, help="instead of that of the run")
    args = parser.parse_args()
    path = args.results or latest(RESULTS, "peers-*.json")
    if path is None:
        parser.error(f"{RESULTS} has no peers-*.json; run the benchmark first")
    saved = complete(json.loads(path.read_text(encoding="utf-8")), args.quality)
    write_document(path, saved)
    draw(saved)
    replace_between(PAGE, BEGIN, END, page(saved))
    replace_between(README, README_BEGIN, README_END, short_table(read_results(saved)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
