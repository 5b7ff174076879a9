"""Loss curves of training logs as a small SVG for the model card.

Run as `python -m autoglm.lite.curve --log NAME=log.jsonl ... --out curve.svg`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

_WIDTH, _HEIGHT, _MARGIN = 720, 360, 48
_COLOURS = ("#1f5fa8", "#c0562b", "#3b8a4b", "#7a4fa3")
_SMOOTHING = 0.9


def read_points(path: Path) -> list[tuple[float, float]]:
    """(million tokens, smoothed loss) of every logged step."""
    points: list[tuple[float, float]] = []
    smooth = 0.0
    for index, line in enumerate(path.read_text().splitlines()):
        entry = json.loads(line)
        keep = _SMOOTHING if index else 0.0
        smooth = keep * smooth + (1 - keep) * float(entry["loss"])
        points.append((float(entry["tokens"]) / 1e6, smooth))
    return points


def draw(curves: Sequence[tuple[str, list[tuple[float, float]]]]) -> str:
    """The SVG text: one line a run, one grid line a nat."""
    right = max(x for _, points in curves for x, _ in points)
    low = int(min(y for _, points in curves for _, y in points))
    high = int(max(y for _, points in curves for _, y in points)) + 1

    def place(x: float, y: float) -> str:
        across = _MARGIN + x / right * (_WIDTH - 2 * _MARGIN)
        down = _HEIGHT - _MARGIN - (y - low) / (high - low) * (_HEIGHT - 2 * _MARGIN)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for nat in range(low, high + 1):
        x, y = place(0, nat).split(",")
        parts.append(f'<line x1="{x}" y1="{y}" x2="{_WIDTH - _MARGIN}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{_MARGIN - 8}" y="{y}" text-anchor="end" dy="4">{nat}</text>')
    for index, (name, points) in enumerate(curves):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        top = _MARGIN + 18 * index
        parts.append(
            f'<text x="{_WIDTH - _MARGIN}" y="{top}" text-anchor="end" '
            f'fill="{colour}">{name}</text>'
        )
    label = f"million tokens (0 to {right:.1f}); loss per token in nats"
    parts.append(f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 14}" text-anchor="middle">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    named = [entry.partition("=") for entry in args.log]
    args.out.write_text(draw([(name, read_points(Path(file))) for name, _, file in named]))


if __name__ == "__main__":
    main()
