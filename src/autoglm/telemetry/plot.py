"""A profile as an SVG picture: for each phase the time of every layer, stacked by step, and beside
it what each step took and its shares of the measured bandwidth and arithmetic peak.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from autoglm.telemetry.profile import NO_LAYER, Limits, Phase, Profile, Totals
from autoglm.telemetry.table import divisor

WIDTH, MARGIN = 1120, 24
HEADER = 64
PLOT_X, PLOT_WIDTH, PLOT_HEIGHT = 76, 560, 240
TABLE_X, ROW_HEIGHT = 672, 20
BAR_X, BAR_WIDTH = TABLE_X + 196, 126
PANEL_GAP = 44
NUM_TICKS = 4
BANDWIDTH_COLOR, PEAK_COLOR, GRID_COLOR = "#4c566a", "#d08770", "#e2e5ea"
# By step, in the order of a pass; close families for what belongs together.
COLORS = {
    "embed": "#9aa0a6",
    "angles": "#c4c8cc",
    "input_norm": "#f2c14e",
    "qkv": "#2b6cb0",
    "rope_store": "#68b0ab",
    "attention": "#2f855a",
    "output": "#63a4e0",
    "mlp_norm": "#f7d98b",
    "router": "#b83280",
    "experts": "#d53f8c",
    "gate_up": "#6b46c1",
    "down": "#a78bda",
    "final_norm": "#d9a441",
    "head": "#c05621",
}
OTHER_COLOR = "#000000"


def svg(profile: Profile) -> str:
    """The document."""
    panels: list[str] = []
    top = HEADER
    for phase in profile.phases:
        height, body = _panel(phase, profile.limits)
        panels.append(f'<g transform="translate(0 {top})">{"".join(body)}</g>')
        top += height + PANEL_GAP
    limits = profile.limits
    title = f"{profile.model} ({profile.weights}), {profile.isa}, {profile.threads} threads"
    subtitle = (
        f"measured limits: {limits.read_bytes_per_s / 1e9:.1f} GB/s read, "
        f"{limits.operations_per_s / 1e12:.2f} Top/s; {profile.depth} tokens before the prompt"
    )
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
            f'viewBox="0 0 {WIDTH} {top}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>',
            _text(MARGIN, 28, title, size=16),
            _text(MARGIN, 48, subtitle, color="#5f6368"),
            *panels,
            "</svg>\n",
        )
    )


def _panel(phase: Phase, limits: Limits) -> tuple[int, list[str]]:
    """The height and elements of one phase, its top left corner at the origin."""
    divided = divisor(phase)
    scope = f"mean of {divided} tokens" if divided > 1 else f"{phase.num_tokens} tokens"
    heading = (
        f"{phase.name}: {scope}, {1e3 * phase.seconds / divided:.2f} ms, "
        f"{phase.num_tokens / phase.seconds:.0f} tokens/s"
    )
    height = max(PLOT_HEIGHT + 48, (len(phase.by_step) + 2) * ROW_HEIGHT + 24)
    return height, [
        _text(MARGIN, 20, heading, size=14),
        f'<g transform="translate(0 40)">{"".join(_layer_bars(phase))}</g>',
        f'<g transform="translate(0 20)">{"".join(_step_rows(phase, limits))}</g>',
    ]


def _layer_bars(phase: Phase) -> Iterator[str]:
    """Stacked bars, one a layer, and a last one for the steps outside the layers."""
    columns = [*phase.by_layer, NO_LAYER]
    divided = divisor(phase)
    cells = phase.by_layer_and_step
    heights = {
        column: 1e3 / divided * sum(cell.seconds for (of, _), cell in cells.items() if of == column)
        for column in columns
    }
    top_ms = _round_top(max(heights.values(), default=0.0))
    yield from _axis(top_ms)
    pitch = PLOT_WIDTH / len(columns)
    label_every = -(-len(columns) * 24 // PLOT_WIDTH)
    for index, column in enumerate(columns):
        x = PLOT_X + index * pitch
        base = float(PLOT_HEIGHT)
        for (of, step), cell in cells.items():
            if of != column:
                continue
            tall = PLOT_HEIGHT * 1e3 * cell.seconds / divided / top_ms
            base -= tall
            name = step if of == NO_LAYER else f"layer {of}, {step}"
            note = f"{name}: {1e3 * cell.seconds / divided:.4f} ms"
            yield _bar(x + 0.1 * pitch, base, 0.8 * pitch, tall, _color(step), note)
        label = "rest" if column == NO_LAYER else str(column)
        if column == NO_LAYER or index % label_every == 0:
            yield _text(x + pitch / 2, PLOT_HEIGHT + 16, label, anchor="middle", size=10)
    middle = PLOT_X + PLOT_WIDTH / 2
    yield _text(middle, PLOT_HEIGHT + 34, "layer; rest: embedding and head", anchor="middle")


def _axis(top_ms: float) -> Iterator[str]:
    for tick in range(NUM_TICKS + 1):
        y = PLOT_HEIGHT * (1 - tick / NUM_TICKS)
        yield (
            f'<line x1="{PLOT_X}" x2="{PLOT_X + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{GRID_COLOR}"/>'
        )
        label = f"{top_ms * tick / NUM_TICKS:.3g}"
        yield _text(PLOT_X - 8, y + 4, label, anchor="end", size=10)
    middle = PLOT_HEIGHT / 2
    yield (
        f'<text transform="translate({MARGIN + 6} {middle}) rotate(-90)" '
        'text-anchor="middle">ms</text>'
    )


def _step_rows(phase: Phase, limits: Limits) -> Iterator[str]:
    """The legend, with time, share of the phase and both shares of the limits."""
    yield _text(TABLE_X + 138, 0, "ms", anchor="end", color="#5f6368")
    yield _text(TABLE_X + 184, 0, "time", anchor="end", color="#5f6368")
    yield _text(BAR_X, 0, "of bandwidth", color=BANDWIDTH_COLOR)
    yield _text(BAR_X + BAR_WIDTH + 8, 0, "of peak", color=PEAK_COLOR)
    divided = divisor(phase)
    for index, (step, totals) in enumerate(phase.by_step.items()):
        y = ROW_HEIGHT * (index + 1)
        yield _bar(TABLE_X, y - 10, 12, 12, _color(step), step)
        yield _text(TABLE_X + 18, y, step)
        yield _text(TABLE_X + 138, y, f"{1e3 * totals.seconds / divided:.3f}", anchor="end")
        share = 100 * totals.seconds / phase.seconds
        yield _text(TABLE_X + 184, y, f"{share:.1f}%", anchor="end")
        yield from _share_bars(totals, limits, y)


def _share_bars(totals: Totals, limits: Limits, y: int) -> Iterator[str]:
    shares = (
        (BAR_X, totals.bandwidth_share(limits), BANDWIDTH_COLOR),
        (BAR_X + BAR_WIDTH + 8, totals.peak_share(limits), PEAK_COLOR),
    )
    for x, share, color in shares:
        room = BAR_WIDTH - 48
        yield _bar(x, y - 9, room, 10, GRID_COLOR, "the limit")
        yield _bar(x, y - 9, room * min(share, 1.0), 10, color, f"{100 * share:.1f}%")
        yield _text(x + room + 4, y, f"{100 * share:.1f}%", size=10)


def _round_top(value: float) -> float:
    """The next round number above, as the end of an axis."""
    if value <= 0:
        return 1.0
    step = 1e-9
    while True:
        for factor in (1, 1.2, 1.6, 2, 3, 4, 6, 8):
            if factor * step >= value:
                return factor * step
        step *= 10


def _color(step: str) -> str:
    return COLORS.get(step, OTHER_COLOR)


def _bar(x: float, y: float, width: float, height: float, color: str, note: str) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" '
        f'fill="{color}"><title>{escape(note)}</title></rect>'
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, color: str = "#202124"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor={quoteattr(anchor)} font-size="{size}" '
        f'fill="{color}">{escape(text)}</text>'
    )
