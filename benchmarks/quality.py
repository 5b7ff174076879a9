"""What quantisation costs: perplexity of a checkpoint for weights x activations x KV cache.

The reference is the bf16 bundle with 16-bit activations and a float cache. Texts must be held out
from training. Usage: quality.py --checkpoint DIR --text FILE... [--answers DIR...] [--json FILE];
about five minutes for the model LITE and 48 windows a text on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from held_out import Text, perplexity, read_answers, read_text
from mixed_weights import parse_mixture, write_rounded
from tokenizers import Tokenizer

from autoglm import _core
from autoglm.engine.native import native_config
from autoglm.modelfile.arch import WEIGHT_FORMATS, WeightFormat
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.convert import convert

WEIGHTS = ("bf16", "int8", "int4")
ACTIVATION_BITS = (16, 8)
KV_DTYPES = ("fp16", "int8")
PERCENT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Perplexity of one text under one choice; rises are relative, in percent."""

    text: str
    weights: str
    activation_bits: int
    kv_dtype: str
    perplexity: float
    rise_percent: float

    @property
    def form(self) -> tuple[str, int, str]:
        """Of weights, activations and cache."""
        return self.weights, self.activation_bits, self.kv_dtype


def open_model(path: Path) -> _core.Model:
    """A bundle's mapped weights."""
    bundle = open_bundle(path)
    files = [str(file) for file in bundle.files]
    return _core.Model(native_config(bundle.config), files, list(bundle.tensors))


def make_plan(threads: int, activation_bits: int, kv_dtype: str) -> _core.Plan:
    """How the model is run."""
    plan = _core.Plan()
    plan.threads, plan.activation_bits, plan.kv_dtype = threads, activation_bits, kv_dtype
    return plan


def write_bundle(checkpoint: Path, out: Path, weights: str) -> None:
    """Convert to `int8`, or to a mixture such as `int4,*.attn.qkv=int8`."""
    default, *exceptions = weights.split(",")
    formats = dict(exception.split("=") for exception in exceptions)
    convert(
        checkpoint,
        out,
        weight_format(default),
        formats={name: weight_format(text) for name, text in formats.items()},
    )


def weight_format(text: str) -> WeightFormat:
    """The format of that name."""
    for name in WEIGHT_FORMATS:
        if name == text:
            return name
    message = f"no weight format {text!r}; there are {', '.join(WEIGHT_FORMATS)}"
    raise ValueError(message)


def scores(
    checkpoint: Path, texts: Sequence[Text], work: Path, kinds: Sequence[str], *, threads: int
) -> Iterator[Score]:
    """Every choice on every text, the reference first."""
    reference: dict[str, float] = {}
    for number, weights in enumerate(kinds):
        bundle_path = work / f"bundle-{number}"
        write_bundle(checkpoint, bundle_path, weights)
        model = open_model(bundle_path)
        caches = ("fp32", *KV_DTYPES) if not reference else KV_DTYPES
        for text in texts:
            for kv_dtype in caches:
                for bits in ACTIVATION_BITS:
                    value = perplexity(model, text, make_plan(threads, bits, kv_dtype))
                    base = reference.setdefault(text.name, value)
                    yield Score(
                        text=text.name,
                        weights=weights,
                        activation_bits=bits,
                        kv_dtype=kv_dtype,
                        perplexity=value,
                        rise_percent=PERCENT * (value / base - 1),
                    )


def rounded_scores(
    mixtures: Sequence[str],
    checkpoint: Path,
    texts: Sequence[Text],
    reference: dict[str, float],
    *,
    threads: int,
) -> Iterator[Score]:
    """Mixtures such as `q4_0` or `int4,self_attn=int8`: weights rounded so, the rest in floats."""
    for mixture in mixtures:
        with tempfile.TemporaryDirectory() as work:
            source, out = Path(work) / "source", Path(work) / "bundle"
            write_rounded(checkpoint, source, parse_mixture(mixture))
            convert(source, out, "fp32")
            model = open_model(out)
            for text in texts:
                value = perplexity(model, text, make_plan(threads, 16, "fp32"))
                base = reference.setdefault(text.name, value)
                yield Score(
                    text=text.name,
                    weights=mixture,
                    activation_bits=16,
                    kv_dtype="fp32",
                    perplexity=value,
                    rise_percent=PERCENT * (value / base - 1),
                )


def table(results: Sequence[Score]) -> str:
    """The scores as Markdown, one row a choice."""
    names = list(dict.fromkeys(score.text for score in results))
    rows: dict[tuple[str, int, str], dict[str, str]] = {}
    for score in results:
        cell = f"{score.perplexity:.3f} ({score.rise_percent:+.2f} %)"
        rows.setdefault(score.form, {})[score.text] = cell
    head = "| weights | activations | KV cache | " + " | ".join(names) + " |"
    lines = [head, "|--|--|--|" + "--|" * len(names)]
    for (weights, bits, kv_dtype), cells in rows.items():
        texts = " | ".join(cells.get(name, "") for name in names)
        lines.append(f"| `{weights}` | {bits} bits | {kv_dtype} | {texts} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print a table and perhaps save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, required=True)
    parser.add_argument("--name", default="LITE", help="what to call the model")
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="*", default=[])
    parser.add_argument(
        "--answers",
        metavar="DIR",
        type=Path,
        nargs="*",
        default=[],
        help="packed rows of which the answers count",
    )
    parser.add_argument("--rows", type=int, default=160, help="at most, of each --answers")
    parser.add_argument("--window", type=int, default=1024, help="tokens scored together")
    parser.add_argument("--windows", type=int, default=48, help="at most, of each text")
    parser.add_argument(
        "--mixed",
        metavar="FORMAT,NAME=FORMAT",
        nargs="*",
        default=[],
        help="also bundles in which matrices of these names (with *) have another format",
    )
    parser.add_argument(
        "--rounded",
        metavar="FORMAT,NAME=FORMAT",
        nargs="*",
        default=[],
        help="also stand-ins: weights of these checkpoint names rounded, the rest in floats",
    )
    parser.add_argument("--skip-grid", action="store_true", help="stand-ins only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", type=Path, help="save the scores")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json"))
    texts = [
        read_text(path, tokenizer, window=args.window, num_windows=args.windows)
        for path in args.text
    ]
    texts += [read_answers(path, num_rows=args.rows) for path in args.answers]
    if not texts:
        parser.error("give texts with --text or --answers")
    with tempfile.TemporaryDirectory() as work:
        kinds = [] if args.skip_grid else [*WEIGHTS, *args.mixed]
        results = list(scores(args.checkpoint, texts, Path(work), kinds, threads=args.threads))
    reference = {score.text: score.perplexity for score in reversed(results)}
    results += rounded_scores(args.rounded, args.checkpoint, texts, reference, threads=args.threads)
    print(table(results))
    if args.json:
        saved = {
            "model": args.name,
            "window": args.window,
            "scores": [asdict(score) for score in results],
        }
        args.json.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
