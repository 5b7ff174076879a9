"""Turn a Hugging Face checkpoint into a bundle that loads without repacking."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from autoglm.cli.interrupt import interrupt_on_termination
from autoglm.cli.options import add_json_option
from autoglm.cli.output import Progress, note, print_json, print_text
from autoglm.modelfile.arch import WEIGHT_FORMATS
from autoglm.modelfile.convert import convert

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("source", metavar="SRC", help="directory with config.json and safetensors")
    parser.add_argument("out", metavar="OUT", help="directory to write; must not exist or be empty")
    parser.add_argument(
        "--weights", choices=WEIGHT_FORMATS, default="int8", help="format (default: int8)"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Convert and report."""
    with interrupt_on_termination(), Progress("converting", total=100, unit="%") as bar:
        result = convert(
            args.source,
            args.out,
            args.weights,
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
