"""Compress a model into a bundle by a recipe, one layer at a time."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from autoglm.cli.interrupt import interrupt_on_termination
from autoglm.cli.options import add_json_option
from autoglm.cli.output import Progress, print_json, print_text

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="directory with config.json and safetensors, floats or of GPTQ or AWQ tools, or a "
        ".gguf file",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        default="w4a8",
        help="a shipped recipe, or a file whose name ends in .toml (default: w4a8)",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="bundle to write; must not exist or be empty"
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="UTF-8 text, for recipes that look at activations"
    )
    parser.add_argument(
        "--golden",
        action="store_true",
        help="run the bundle once and store a prompt that is compared whenever it is loaded",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Compress and report."""
    from autoglm.compression.pipeline import compress

    with (
        interrupt_on_termination(),
        Progress("compressing", total=100, unit="%", shows_time_left=True) as bar,
    ):
        result = compress(
            args.model,
            args.recipe,
            out=args.out,
            calibration=args.calibration,
            has_golden=args.golden,
            progress=lambda done, total: bar.update(100 * done / total),
        )
    if args.json:
        print_json({**asdict(result), "path": str(result.path)})
    else:
        print_text(
            f"{result.path}: {result.architecture}, {result.recipe}, "
            f"{result.weights_bytes / MIB:.1f} MiB, {result.bits_per_weight:.2f} bits a weight"
        )
    return 0
