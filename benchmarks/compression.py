"""What recipes cost and bring: size, quality, speed and memory of one checkpoint, as a table.

Perplexities and task scores come with 95 % intervals over resampled windows and rows. Speeds are
medians of rounds in which all bundles take turns, so that a busy machine slows all of them; with
`--speeds` they are those of an earlier run. Texts and tasks must be held out from training and from
calibration. LITE takes about twenty minutes, half of them for answers.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from held_out import Text, perplexity, read_answers, read_text
from quality import make_plan, open_model
from tokenizers import Tokenizer

from autoglm.cli.compress_task import TaskScore, compared_scores, rouge1_of
from autoglm.compression.exchanges import read_exchanges
from autoglm.compression.pipeline import compress
from autoglm.compression.recipe import Recipe, load_recipe, parse_recipe, recipe_names
from autoglm.modelfile.bundle import WEIGHTS_NAME, open_bundle, read_bundle_config
from autoglm.modelfile.layout import bundle_tensors

REFERENCES = tuple(parse_recipe(name, f'weights = "{name}"\n') for name in ("fp32", "bf16"))
MIB = 2**20
LABEL_ROOM = 0.055  # of the height of a panel
NUM_RESAMPLED = 1000
PERCENT = 100.0
BENCH = ("--prompt-tokens", "512", "--gen-tokens", "64", "--repeat", "1", "--precision", "exact")
Medians = dict[str, list[float]]
SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s", "peak_rss_mib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Perplexity of one text, with its interval."""

    text: str
    perplexity: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One recipe."""

    recipe: str
    mib: float
    bits_per_weight: float
    quality: tuple[Quality, ...]
    tasks: tuple[TaskScore, ...]
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    peak_rss_mib: float


@dataclass(frozen=True, slots=True)
class Bundle:
    """A recipe's result."""

    recipe: str
    path: Path
    mib: float
    bits_per_weight: float


def speeds(bundles: Sequence[Bundle], rounds: int) -> Medians:
    """The medians of SPEEDS of every bundle."""
    found: list[list[list[float]]] = [[] for _ in bundles]
    for _ in range(rounds):
        for bundle, values in zip(bundles, found, strict=True):
            command = [sys.executable, "-m", "autoglm", "bench", "--model", str(bundle.path)]
            done = subprocess.run([*command, "--json", *BENCH], check=True, capture_output=True)
            figures = json.loads(done.stdout)
            values.append([figures[name]["median"] for name in SPEEDS])
    return {
        bundle.recipe: [median(column) for column in zip(*values, strict=True)]
        for bundle, values in zip(bundles, found, strict=True)
    }


def speeds_of(path: Path) -> Medians:
    """Those of an earlier run."""
    return {row.recipe: [getattr(row, name) for name in SPEEDS] for row in read_rows(path)}


def measure(
    bundles: Sequence[Bundle], texts: Sequence[Text], tasks: Sequence[Path], medians: Medians
) -> list[Row]:
    """Score all bundles; task scores stand beside those of the second, which is bf16."""
    exchanges = [read_exchanges(path) for path in tasks]
    answered = []
    for bundle in bundles:
        answered.append(rouge1_of(bundle.path, exchanges, lambda done: None) if tasks else [])
        print(f"answered {bundle.recipe}", file=sys.stderr, flush=True)
    return [
        Row(
            recipe=bundle.recipe,
            mib=bundle.mib,
            bits_per_weight=bundle.bits_per_weight,
            quality=tuple(quality(bundle.path, text) for text in texts),
            tasks=tuple(
                compared_scores(path.stem, mine, half)
                for path, mine, half in zip(tasks, scores, answered[1], strict=True)
            ),
            **dict(zip(SPEEDS, medians[bundle.recipe], strict=True)),
        )
        for bundle, scores in zip(bundles, answered, strict=True)
    ]


def quality(path: Path, text: Text) -> Quality:
    """Perplexity of the windows together, and of resampled ones."""
    model = open_model(path)
    plan = make_plan(0, open_bundle(path).packing.activation_bits, "fp16")
    pieces = [
        Text(text.name, (window,), None if text.counted is None else (text.counted[i],))
        for i, window in enumerate(text.windows)
    ]
    counts = np.array([piece.num_counted for piece in pieces], np.float64)
    nats = counts * np.log([perplexity(model, piece, plan) for piece in pieces])
    drawn = np.random.default_rng(0).integers(0, len(pieces), (NUM_RESAMPLED, len(pieces)))
    resampled = np.exp(nats[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Quality(
        text=text.name,
        perplexity=math.exp(nats.sum() / counts.sum()),
        low=float(low),
        high=float(high),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    wide, half = rows[0], rows[1]
    names = [one.text for one in wide.quality] + [one.task for one in wide.tasks]
    lines = [
        f"| recipe | MiB | bits | {' | '.join(names)} | prefill | decode | to fp32, bf16 | peak |",
        "|--|--|--|" + "--|" * (len(names) + 4),
    ]
    for row in rows:
        cells = [
            f"{one.perplexity:.3f} ({one.low:.3f}-{one.high:.3f})"
            f", {PERCENT * (one.perplexity / first.perplexity - 1):+.1f} %"
            for one, first in zip(row.quality, wide.quality, strict=True)
        ]
        cells += [
            f"{one.rouge1:.1f}, {one.difference:+.1f} "
            f"({one.difference_low:+.1f} to {one.difference_high:+.1f})"
            for one in row.tasks
        ]
        lines.append(
            f"| {row.recipe} | {row.mib:.1f} ({wide.mib / row.mib:.1f}x smaller) | "
            f"{row.bits_per_weight:.2f} | {' | '.join(cells)} | "
            f"{row.prefill_tokens_per_s:.0f} | {row.decode_tokens_per_s:.0f} | "
            f"{row.decode_tokens_per_s / wide.decode_tokens_per_s:.2f}x, "
            f"{row.decode_tokens_per_s / half.decode_tokens_per_s:.2f}x | {row.peak_rss_mib:.1f} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Rise of perplexity against decode speed; the area of a dot is the size."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from plots import OWN_COLOR, STYLE, save

    names = [quality.text for quality in rows[0].quality]
    with mpl.rc_context(STYLE):
        size = (6.4 * len(names), 4)
        figure, panels = plt.subplots(1, len(names), figsize=size, squeeze=False, layout="tight")
        for number, (axes, name) in enumerate(zip(panels[0], names, strict=True)):
            first = rows[0].quality[number].perplexity
            points = []
            for row in rows:
                rise = PERCENT * (row.quality[number].perplexity / first - 1)
                points.append((row.decode_tokens_per_s, rise, row.recipe))
                place = points[-1][:2]
                axes.scatter(*place, s=4 * row.mib, color=OWN_COLOR, alpha=0.5, linewidths=0)
            axes.set_yscale("symlog", linthresh=1)
            axes.set_xlabel("decode, tokens/s")
            axes.set_ylabel(f"{name}: rise of perplexity, %")
            label(axes, points)
        save(figure, path)


def label(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Names in a column beside the dots, in their order: many recipes cost about the same."""
    axes.autoscale_view()  # else the limits are found when it is drawn
    to_fraction = axes.transData + axes.transAxes.inverted()
    places = sorted((float(to_fraction.transform(point[:2])[1]), point) for point in points)
    bottom = 0.0
    for height, (speed, rise, name) in places:
        # What is still to come above needs room.
        above = sum(other > (height, (speed, rise, name)) for other in places)
        bottom = min(max(bottom, height - LABEL_ROOM), 1.0 - LABEL_ROOM * above)
        axes.annotate(
            name,
            (speed, rise),
            (1.04, bottom),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "linewidth": 0.3,
                "color": "gray",
                "relpos": (0, 0.5),
            },
        )
        bottom += LABEL_ROOM


def read_rows(path: Path) -> list[Row]:
    """What --json of an earlier run has written."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [
        Row(
            **{
                **row,
                "quality": tuple(Quality(**one) for one in row["quality"]),
                "tasks": tuple(TaskScore(**one) for one in row["tasks"]),
            }
        )
        for row in found
    ]


def recipes_of(names: Sequence[str]) -> list[Recipe]:
    """The references, then those asked for, or all that are shipped."""
    return [*REFERENCES, *(load_recipe(name) for name in names or recipe_names())]


def bundles_of(args: argparse.Namespace, work: Path) -> list[Bundle]:
    """Compress by all recipes that `work` has no bundle of; then the bundles made before."""
    found = []
    for recipe in recipes_of(args.recipe):
        if not (work / recipe.name).exists():
            calibration = args.calibration if recipe.needs_calibration else None
            compress(args.checkpoint, recipe, out=work / recipe.name, calibration=calibration)
            print(f"wrote {recipe.name}", file=sys.stderr, flush=True)
        found.append(work / recipe.name)
    return [described(path) for path in (*found, *args.bundle)]


def described(path: Path) -> Bundle:
    """A bundle, by the name of its directory."""
    _, arch, _ = read_bundle_config(path)
    num_weights = sum(
        math.prod(rows.source_shape[1:]) * rows.count
        for tensor in bundle_tensors(arch)
        for rows in tensor.pieces
    )
    size = (path / WEIGHTS_NAME).stat().st_size
    return Bundle(path.name, path, size / MIB, 8 * size / num_weights)


def measured(args: argparse.Namespace) -> list[Row]:
    """Measure what all recipes make of the checkpoint."""
    tokenizer = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json"))
    texts = [read_answers(path, num_rows=args.rows) for path in args.answers]
    texts += [
        read_text(path, tokenizer, window=args.window, num_windows=args.windows)
        for path in args.text
    ]
    with tempfile.TemporaryDirectory() as temporary:
        bundles = bundles_of(args, args.keep or Path(temporary))
        medians = speeds_of(args.speeds) if args.speeds else speeds(bundles, args.rounds)
        return measure(bundles, texts, args.task, medians)


def main() -> int:
    """Measure, print a table and perhaps save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", metavar="DIR", type=Path)
    what.add_argument("--measured", metavar="FILE", type=Path, help="of an earlier run's --json")
    parser.add_argument("--calibration", metavar="FILE", type=Path)
    parser.add_argument("--answers", metavar="DIR", type=Path, nargs="*", default=[])
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="*", default=[])
    parser.add_argument("--task", metavar="FILE", type=Path, nargs="*", default=[], help="rows")
    parser.add_argument("--recipe", metavar="NAME|FILE", nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=160, help="at most, of each --answers")
    parser.add_argument("--window", type=int, default=512, help="tokens of a window of a text")
    parser.add_argument("--windows", type=int, default=48, help="at most, of each text")
    parser.add_argument("--rounds", type=int, default=7, help="of measuring speed")
    parser.add_argument(
        "--bundle", metavar="DIR", type=Path, nargs="*", default=[], help="bundles made before"
    )
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep bundles, use them again")
    parser.add_argument("--speeds", metavar="FILE", type=Path, help="of another run's --json")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--plot", metavar="FILE", type=Path)
    args = parser.parse_args()
    rows = measured(args) if args.measured is None else read_rows(args.measured)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if args.plot:
        plot(rows, args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
