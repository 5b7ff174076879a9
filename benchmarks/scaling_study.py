"""Which size of LITE a budget of compute supports: held-out loss by size at equal operations.

Every size is trained from scratch on each budget, with the learning rate decayed to zero at its
end. A study that was interrupted goes on; training runs in one process after the other.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoglm.lite.gradients import flops_per_token
from autoglm.lite.model import LiteConfig, LiteModel

ROW_TOKENS, BATCH_ROWS = 512, 8
HEAD_DIM = 64
# Hidden size, layers, width of the feed-forward part.
SHAPES = ((256, 4, 640), (384, 5, 960), (512, 6, 1280), (640, 8, 1600))
_COLOURS = ("#9a9a9a", "#1f5fa8", "#c0562b", "#3b8a4b")
_WIDTH, _HEIGHT, _MARGIN = 560, 300, 56


@dataclass(frozen=True, slots=True)
class Size:
    """One shape, and what a token of it costs."""

    hidden: int
    layers: int
    intermediate: int
    num_parameters: int
    flops: float

    @classmethod
    def of(cls, hidden: int, layers: int, intermediate: int) -> "Size":
        """Count the parameters of a shape."""
        config = LiteConfig(
            hidden_size=hidden,
            num_layers=layers,
            num_heads=hidden // HEAD_DIM,
            intermediate_size=intermediate,
        )
        number = LiteModel(config).num_parameters()
        return cls(
            hidden, layers, intermediate, number, flops_per_token(config, number, ROW_TOKENS)
        )


@dataclass(frozen=True, slots=True)
class Point:
    """What came of one size with one budget."""

    size: Size
    petaflops: float
    tokens: int
    loss: float
    processor_s: float


def train(size: Size, petaflops: float, args: argparse.Namespace) -> Point:
    """Run or read one training."""
    steps = max(2, round(1e15 * petaflops / size.flops / (BATCH_ROWS * ROW_TOKENS)))
    out: Path = args.out / f"{size.hidden}x{size.layers}-{petaflops:g}"
    log = out / "log.jsonl"
    if not log.exists() or json.loads(log.read_text().splitlines()[-1])["step"] < steps:
        command = [
            *(sys.executable, "-m", "autoglm.lite.train", "--packed", str(args.packed)),
            *("--held-out", str(args.held_out), "--out", str(out), "--steps", str(steps)),
            *("--row-tokens", str(ROW_TOKENS), "--batch-rows", str(BATCH_ROWS)),
            *("--hidden", str(size.hidden), "--layers", str(size.layers)),
            *("--heads", str(size.hidden // HEAD_DIM), "--intermediate", str(size.intermediate)),
            *("--eval-steps", str(steps), "--decay-from", "0.5"),
        ]
        subprocess.run(command, check=True)
        for heavy in ("checkpoint.pt", "weights.pt"):
            (out / heavy).unlink()
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    last = entries[-1]
    spent = sum(entry["processor_s"] for entry in entries)
    return Point(size, petaflops, last["tokens"], last["held_out_loss"], spent)


def table(points: Sequence[Point]) -> str:
    """Markdown, one row a run."""
    lines = [
        "| petaflop | parameters, M | shape | tokens, M | held-out loss, nats | processor, s |",
        "|--|--|--|--|--|--|",
    ]
    for point in points:
        size = point.size
        lines.append(
            f"| {point.petaflops:g} | {size.num_parameters / 1e6:.1f} "
            f"| {size.layers} x {size.hidden} | {point.tokens / 1e6:.2f} "
            f"| {point.loss:.3f} | {point.processor_s:.0f} |"
        )
    return "\n".join(lines)


def draw(points: Sequence[Point]) -> str:
    """Loss against size, one line a budget."""
    sizes = [point.size.num_parameters / 1e6 for point in points]
    losses = [point.loss for point in points]
    low, high = min(losses) - 0.1, max(losses) + 0.1

    def place(millions: float, loss: float) -> tuple[float, float]:
        across = _MARGIN + (_WIDTH - 2 * _MARGIN) * (millions / max(sizes))
        return across, _MARGIN + (_HEIGHT - 2 * _MARGIN) * (high - loss) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for millions in sorted(set(sizes)):
        x, _ = place(millions, low)
        parts.append(
            f'<text x="{x:.0f}" y="{_HEIGHT - 36}" text-anchor="middle">{millions:.0f}</text>'
        )
    for index, budget in enumerate(sorted({point.petaflops for point in points})):
        line = [p for p in points if p.petaflops == budget]
        colour = _COLOURS[index % len(_COLOURS)]
        places = [place(p.size.num_parameters / 1e6, p.loss) for p in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        for (x, y), point in zip(places, line, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
            parts.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}">{point.loss:.2f}</text>')
        top = 18 + 16 * index
        name = f"{budget:g} PFLOP"
        parts.append(
            f'<text x="{_WIDTH - 12}" y="{top}" text-anchor="end" fill="{colour}">{name}</text>'
        )
    label = "million parameters; held-out loss per token in nats"
    parts.append(f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 12}" text-anchor="middle">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packed", type=Path, required=True, help="texts of autoglm.lite.corpus")
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs")
    parser.add_argument("--petaflops", type=float, nargs="+", default=[0.02, 0.04, 0.08])
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    sizes = [Size.of(*shape) for shape in SHAPES]
    points = [train(size, budget, args) for budget in args.petaflops for size in sizes]
    print(table(points))
    if args.plot:
        args.plot.write_text(draw(points))


if __name__ == "__main__":
    main()
