"""Check a bundle: every file against its manifest, every tensor against the configuration."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from autoglm.cli.options import add_json_option
from autoglm.cli.output import Progress, print_json, print_text
from autoglm.modelfile.verify import verify

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="directory of the bundle")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Verify and report."""
    with Progress("verifying", total=100, unit="%") as bar:
        result = verify(
            args.bundle,
            progress=lambda done, total: bar.update(100 * done // max(total, 1)),
        )
    if args.json:
        print_json({**asdict(result), "path": str(result.path)})
    else:
        size = f"{result.num_bytes / MIB:.1f} MiB"
        print_text(
            f"{result.path}: ok, {result.architecture}, {result.weights}, "
            f"{result.num_tensors} tensors, {size}"
        )
    return 0
