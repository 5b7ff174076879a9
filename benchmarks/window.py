"""What a window costs and brings: perplexity next to decode speed and KV memory, as a table.

`pieces` is the perplexity of pieces as long as the model's context, each on its own, where full
attention can be compared; `stream` that of the whole text in one sequence, for windows only.
A speed during which others used more than 0.1 processors is measured again, or marked.
Usage: window.py [--model DIR] [--file TEXT] [--windows W,W,...] [--threads T] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quiet import MAX_OTHER_CPUS, Quiet, measured

from autoglm.config import FAST
from autoglm.engine.model import EMBEDDED_MODEL
from autoglm.engine.native import DEFAULT_SINK, NativeModel, held_tokens
from autoglm.engine.precision import kv_token_bytes
from autoglm.engine.tokenizer import Tokenizer
from autoglm.modelfile.bundle import Bundle, open_bundle
from autoglm.types import SamplingParams

ROOT = Path(__file__).parents[1]
WINDOWS = (256, 512, 1024)
DECODED_TOKENS = 64
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of attention; `window` 0 is all. Speed and memory are those at the text's end."""

    window: int
    pieces: float
    stream: float | None
    decode_tokens_per_s: float
    other_cpus: float
    depth: int
    kv_mib: float


def sample_text() -> str:
    """The project's own pages, when no text is given."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def perplexity(model: NativeModel, pieces: Sequence[Sequence[int]]) -> float:
    """Over all tokens of all pieces but their first."""
    nats = sum(model.score(piece) for piece in pieces)
    return math.exp(nats / sum(len(piece) - 1 for piece in pieces))


def decode_rate(model: NativeModel, ids: Sequence[int], attempts: int) -> Quiet[float]:
    """Tokens a second after `ids`."""
    session = model.session(SamplingParams(ignore_eos=True))
    session.prefill(list(ids))
    session.decode(1)

    def work() -> float:
        start = time.perf_counter()
        written = session.decode(DECODED_TOKENS)
        return len(written) / (time.perf_counter() - start)

    return measured(work, attempts=attempts)


def measure(bundle: Bundle, ids: Sequence[int], window: int, *, threads: int, attempts: int) -> Row:
    """Score and continue the text with one kind of attention."""
    context = bundle.max_position
    pieces = [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]
    depth = len(ids) if window else context - attempts * DECODED_TOKENS - 1
    held = held_tokens(len(ids) if window else context, window=window, sink=DEFAULT_SINK)
    model = NativeModel(
        bundle,
        pool_tokens=held,
        threads=threads,
        window=window,
        has_prompt_lookup=False,
        precision=FAST,
    )
    rate = decode_rate(model, ids[:depth], attempts)
    return Row(
        window=window,
        pieces=perplexity(model, pieces),
        stream=perplexity(model, [ids]) if window else None,
        decode_tokens_per_s=rate.value,
        other_cpus=rate.other_cpus,
        depth=depth,
        kv_mib=held * kv_token_bytes(bundle.config, FAST) / MIB,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| attention | perplexity, pieces | in one stream | decode tokens/s | at depth | KV MiB |",
        "|--|--|--|--|--|--|",
    ]
    for row in rows:
        name = f"{DEFAULT_SINK} + {row.window}" if row.window else "full"
        stream = "-" if row.stream is None else f"{row.stream:.2f}"
        noisy = " (noisy)" if row.other_cpus > MAX_OTHER_CPUS else ""
        lines.append(
            f"| {name} | {row.pieces:.2f} | {stream} | {row.decode_tokens_per_s:.0f}{noisy} "
            f"| {row.depth} | {row.kv_mib:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--file", type=Path, help="UTF-8 text; the project's own pages if left out")
    parser.add_argument("--windows", default=",".join(map(str, WINDOWS)))
    parser.add_argument("--max-tokens", type=int, default=100_000, help="of the text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attempts", type=int, default=8, help="tries for a quiet speed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle = open_bundle(args.model)
    tokenizer = Tokenizer.from_file(bundle.tokenizer_path, vocab_size=bundle.config.vocab_size)
    text = args.file.read_text(encoding="utf-8") if args.file else sample_text()
    ids = tokenizer.encode(text, has_controls=False)[: args.max_tokens]
    if len(ids) < bundle.max_position:
        parser.error(f"the text has {len(ids)} tokens; at least {bundle.max_position} are needed")
    windows = [0, *(int(window) for window in args.windows.split(","))]
    rows = [
        measure(bundle, ids, window, threads=args.threads, attempts=args.attempts)
        for window in windows
    ]
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(f"{args.model.name}, {len(ids)} tokens, {args.threads} threads\n\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
