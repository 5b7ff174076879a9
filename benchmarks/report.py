"""Renders results of bench_peers.py and quality.py into BENCHMARKS.md, with plots.

Usage: report.py [--results FILE] [--quality FILE]; by default the latest file of each kind.
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
from peers.engines import OURS
from peers.product import PRODUCT
from peers.rows import LARGE, SMALL, Row, Scale, median_of, number, rows_of, table
from peers.workload import Sample
from quality import Score
from quality import table as quality_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLOTS = ROOT / "benchmarks" / "plots"
PAGE = ROOT / "BENCHMARKS.md"
BEGIN, END = "<!-- report: begin -->", "<!-- report: end -->"
COLUMNS = (
    workload.PREFILL,
    workload.PREFILL_LONG,
    workload.DECODE,
    workload.DECODE_DEEP,
    workload.ROWS,
    workload.FIRST_TOKEN,
    workload.MEMORY_FIRST,
    workload.MEMORY_PEAK,
    workload.MEMORY_SECOND,
)


# The line of the quality table that rounds as an engine's weights do.
ROUNDINGS = {
    "int4, groups of 32": "int4",
    "Q4_0": "q4_0",
    "int4, groups of 128": "q4_128",
    "bf16": "bf16",
}


def latest(pattern: str) -> Path:
    """The newest result file of a kind; the names hold the time."""
    found = sorted(RESULTS.glob(pattern))
    if not found:
        message = f"{RESULTS}: has no {pattern}; run the benchmark first"
        raise FileNotFoundError(message)
    return found[-1]


def read_samples(saved: dict[str, Any]) -> list[Sample]:
    """The samples of a result file."""
    return [Sample(**sample) for sample in saved["samples"]]


def read_scale(saved: dict[str, Any]) -> Scale:
    """The scale of a result file; JSON keeps keys as text."""
    scale = saved["scale"]
    operations = {int(length): value for length, value in scale["token_operations"].items()}
    return Scale(**{**scale, "token_operations": operations})


def engine_table(
    model: str, samples: Sequence[Sample], weights: dict[str, str], scores: Sequence[Score]
) -> str:
    """Every engine on one model, all rows, medians; and what its rounding costs."""
    head = ("engine", "weights", "perplexity", *COLUMNS)
    lines = ["| " + " | ".join(head) + " |", "|--" * len(head) + "|"]
    of_model = [sample for sample in samples if sample.model == model]
    for engine in dict.fromkeys(sample.engine for sample in of_model):
        kind = weights.get(engine, "")
        cells = [engine, kind, rounding_cost(kind, scores)]
        for row in COLUMNS:
            found = [s for s in of_model if (s.engine, s.row) == (engine, row)]
            middle = median_of(found) if found else None
            noisy = " (noisy)" if middle and middle.is_noisy else ""
            cells.append(number(middle.value) + noisy if middle else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rounding_cost(weights: str, scores: Sequence[Score]) -> str:
    """The range over the texts of the rise of perplexity, with a float or half cache."""
    name = ROUNDINGS.get(weights)
    rises = [
        score.rise_percent
        for score in scores
        if (score.weights, score.activation_bits) == (name, 16) and score.kv_dtype != "int8"
    ]
    return f"{min(rises):+.1f} to {max(rises):+.1f} %" if rises else ""


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


def page(saved: dict[str, Any], quality: dict[str, Any] | None) -> str:
    """The generated part of BENCHMARKS.md."""
    samples, scale = read_samples(saved), read_scale(saved)
    weights: dict[str, str] = saved["weights"]
    scores = [Score(**score) for score in quality["scores"]] if quality is not None else []
    parts = [
        f"{saved['machine']}; {saved['time'][:10]}, warm page cache.",
        f"{limits_line(scale)} {noise_line(samples)}",
        "## Targets",
        table(rows_of(samples, scale)),
        "![ratio to the best peer](benchmarks/plots/ratios.svg)",
        "## Engines",
    ]
    for model in (LARGE, SMALL):
        title = "GLM-Edge-1.5B shape" if model == LARGE else "60m shape"
        parts += [
            f"**{title}** (tokens/s, x, s, MiB)",
            engine_table(model, samples, weights, scores),
        ]
    parts += [
        "![decode speed against depth](benchmarks/plots/depth.svg)",
        "![roofline](benchmarks/plots/roofline.svg)",
    ]
    if quality is not None:
        parts += ["## Quality", quality_line(quality), quality_table(scores)]
    return "\n\n".join(parts)


def quality_line(quality: dict[str, Any]) -> str:
    """What the perplexities are of."""
    return (
        f"Perplexity of {quality['model']} over windows of {quality['window']} tokens, and its "
        "rise against bf16 weights, 16-bit activations and a float cache. A mixture such as "
        "`int4,self_attn=int8` rounds the weights so and computes the rest in floats."
    )


def draw(saved: dict[str, Any], rows: Sequence[Row]) -> None:
    """Every plot."""
    PLOTS.mkdir(exist_ok=True)
    plots.ratios(rows, PLOTS / "ratios.svg")
    own_names = (OURS, PRODUCT)
    plots.depth(read_samples(saved), LARGE, own_names[0], PLOTS / "depth.svg")
    plots.roofline(saved["profiles"], PLOTS / "roofline.svg")


def main() -> int:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", metavar="FILE", type=Path)
    parser.add_argument("--quality", metavar="FILE", type=Path)
    args = parser.parse_args()
    saved = json.loads((args.results or latest("peers-*.json")).read_text(encoding="utf-8"))
    quality_path = args.quality or next(iter(sorted(RESULTS.glob("quality-*.json"))[-1:]), None)
    quality = json.loads(quality_path.read_text(encoding="utf-8")) if quality_path else None
    draw(saved, rows_of(read_samples(saved), read_scale(saved)))
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{page(saved, quality)}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
