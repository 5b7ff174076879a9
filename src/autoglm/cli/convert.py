"""Turn a Hugging Face checkpoint into a bundle that loads without repacking."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from autoglm.cli.interrupt import interrupt_on_termination
from autoglm.cli.options import add_json_option
from autoglm.cli.output import Progress, note, print_json, print_text
from autoglm.modelfile.arch import WEIGHT_FORMATS, WeightFormat
from autoglm.modelfile.convert import convert
from autoglm.modelfile.passes import DEFAULT_PASSES, PASS_NAMES, PASSES

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("source", metavar="SRC", help="directory with config.json and safetensors")
    parser.add_argument("out", metavar="OUT", help="directory to write; must not exist or be empty")
    parser.add_argument(
        "--weights", choices=WEIGHT_FORMATS, default="int8", help="format (default: int8)"
    )
    parser.add_argument(
        "--format",
        metavar="NAME=FORMAT",
        type=_format,
        action="append",
        default=[],
        help="format of the matrices with names like NAME, as in 'model.layers.*.attn.o=int8'; "
        "repeatable, the last match counts",
    )
    parser.add_argument(
        "--passes",
        metavar="LIST",
        type=_names,
        default=DEFAULT_PASSES,
        help="passes to run, separated by commas; 'default' stands for: "
        f"{', '.join(DEFAULT_PASSES)}. All: "
        + "; ".join(f"{step.name} ({step.summary})" for step in PASSES),
    )
    parser.add_argument(
        "--skip-pass",
        metavar="NAME",
        action="append",
        default=[],
        choices=PASS_NAMES,
        help="a pass to leave out; repeatable",
    )
    add_json_option(parser)


def _names(text: str) -> tuple[str, ...]:
    names: list[str] = []
    for name in text.split(","):
        names.extend(DEFAULT_PASSES if name == "default" else [name])
    return tuple(names)


def _format(text: str) -> tuple[str, WeightFormat]:
    pattern, _, name = text.rpartition("=")
    for weights in WEIGHT_FORMATS:
        if pattern and name == weights:
            return pattern, weights
    message = f"{text!r} is not NAME=FORMAT with a format of {', '.join(WEIGHT_FORMATS)}"
    raise argparse.ArgumentTypeError(message)


def run(args: argparse.Namespace) -> int:
    """Convert and report."""
    with interrupt_on_termination(), Progress("converting", total=100, unit="%") as bar:
        result = convert(
            args.source,
            args.out,
            args.weights,
            passes=[name for name in args.passes if name not in args.skip_pass],
            formats=dict(args.format),
            progress=lambda done, total: bar.update(100 * done // total),
        )
    if not result.has_tokenizer:
        note(f"{args.source}: no tokenizer.json; the bundle takes token ids only")
    if args.json:
        print_json({**asdict(result), "path": str(result.path)})
    else:
        size = f"{result.weights_bytes / MIB:.1f} MiB"
        print_text(f"{result.path}: {result.architecture}, {result.weights}, {size}")
    return 0
