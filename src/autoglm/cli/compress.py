"""Compress a model into a bundle, or an ONNX network into a smaller one, by a recipe."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.cli.interrupt import interrupt_on_termination
from autoglm.cli.options import add_json_option, whole_number
from autoglm.cli.output import Progress, print_json, print_text
from autoglm.errors import UsageError, require
from autoglm.inputs.text import read_text

if TYPE_CHECKING:
    from autoglm.compression.pipeline import Compression

MIB = 2**20
MAX_TEXT_BYTES = 256 * MIB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="directory with config.json and safetensors, floats or of GPTQ or AWQ tools, a .gguf "
        "file, or a network in an .onnx file",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="a shipped recipe, or a file whose name ends in .toml (default: w4a8, or "
        "graph-int8 for an .onnx file)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR|FILE",
        required=True,
        help="bundle to write, which must not exist or be empty; for an .onnx file a file",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="for recipes that look at activations: UTF-8 text, or rows as JSON lines in a .jsonl "
        "file; for an .onnx file its inputs in an .npz or .npy file",
    )
    parser.add_argument(
        "--golden",
        action="store_true",
        help="run the bundle once and store a prompt that is compared whenever it is loaded",
    )
    parser.add_argument(
        "--budget-mib",
        metavar="N",
        type=whole_number(1),
        help="give matrices more bits than the recipe does, where rounding costs most on the "
        "calibration text, until the weights take N MiB",
    )
    parser.add_argument(
        "--recover",
        metavar="STEPS",
        type=whole_number(1),
        help="train so many steps on the calibration text after pruning, to answer like the whole "
        "model; needs the extra train, and memory for 24 bytes a weight",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let the machines of a Ray cluster pack the layers, of recipes without calibration; "
        "local starts one here; needs the extra scale",
    )
    _add_eval(parser)
    add_json_option(parser)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--eval",
        action="store_true",
        help="also measure perplexity, speed and memory beside the model in bf16; not for .onnx",
    )
    parser.add_argument(
        "--eval-task",
        metavar="FILE",
        action="append",
        default=[],
        help="rows of prompt, text and reference as JSON lines that --eval asks, which training "
        "and calibration have not seen; may be given again; needs the extra eval",
    )
    parser.add_argument(
        "--eval-text",
        metavar="FILE",
        action="append",
        default=[],
        help="UTF-8 text that --eval scores, which training and calibration have not seen; may be "
        "given again (default: a short one in English and one in Chinese)",
    )


def run(args: argparse.Namespace) -> int:
    """Compress and report."""
    _check_eval(args)
    if args.model.endswith(".onnx"):
        return _run_graph(args)
    with interrupt_on_termination():
        result = _recovered(args) if args.recover else _compressed(args)
    figures: dict[str, object] = {}
    if args.eval:
        from autoglm.cli.compress_report import lines, measured

        with interrupt_on_termination():
            figures = measured(result, args.model, args.eval_text, args.eval_task)
    if args.json:
        print_json({**asdict(result), "path": str(result.path), **figures})
        return 0
    print_text(
        f"{result.path}: {result.architecture}, {result.recipe}, "
        f"{result.weights_bytes / MIB:.1f} MiB, {result.bits_per_weight:.2f} bits a weight"
    )
    if figures:
        print_text("\n".join(lines(figures, result.weights_bytes)))
    return 0


def _check_eval(args: argparse.Namespace) -> None:
    """Look at what will be scored before any work is done."""
    if (args.eval_text or args.eval_task) and not args.eval:
        message = "--eval-text and --eval-task are what --eval scores; add --eval"
        raise UsageError(message)
    for text in args.eval_text:
        read_text(text, max_bytes=MAX_TEXT_BYTES)
    if args.eval_task:
        from autoglm.compression.exchanges import read_exchanges

        require("rouge_score", extra="eval")
        for task in args.eval_task:
            read_exchanges(Path(task))


def _compressed(args: argparse.Namespace) -> Compression:
    from autoglm.compression.pipeline import DEFAULT_RECIPE, compress

    with Progress("compressing", total=100, unit="%", shows_time_left=True) as bar:
        return compress(
            args.model,
            args.recipe or DEFAULT_RECIPE,
            out=args.out,
            calibration=args.calibration,
            budget_mib=args.budget_mib,
            has_golden=args.golden,
            ray=args.ray,
            progress=lambda done, total: bar.update(100 * done / total),
        )


def _recovered(args: argparse.Namespace) -> Compression:
    from autoglm.compression.pipeline import DEFAULT_RECIPE
    from autoglm.recovery.pipeline import compress_and_recover

    if args.calibration is None:
        message = "--recover trains on a text; name it with --calibration"
        raise UsageError(message)
    if args.budget_mib or args.ray:
        message = "--recover goes neither with --budget-mib nor with --ray"
        raise UsageError(message)
    with Progress("recovering", total=args.recover, unit="steps", shows_time_left=True) as bar:

        def report(stage: str, done: int, _: int) -> None:
            if stage == "recovering":
                bar.update(done)

        return compress_and_recover(
            args.model,
            args.recipe or DEFAULT_RECIPE,
            out=args.out,
            calibration=args.calibration,
            steps=args.recover,
            has_golden=args.golden,
            progress=report,
        )


def _run_graph(args: argparse.Namespace) -> int:
    from autoglm.compression.graphs.pipeline import DEFAULT_GRAPH_RECIPE, compress_graph

    given = {"--golden": args.golden, "--eval": args.eval, "--recover": args.recover}
    given |= {"--budget-mib": args.budget_mib, "--ray": args.ray}
    wrong = [option for option, value in given.items() if value]
    if wrong:
        message = f"{wrong[0]} is for language models; an .onnx network does not take it"
        raise UsageError(message)
    result = compress_graph(
        args.model,
        args.recipe or DEFAULT_GRAPH_RECIPE,
        out=args.out,
        calibration=args.calibration,
    )
    if args.json:
        print_json({**asdict(result), "path": str(result.path)})
        return 0
    difference = ""
    if result.largest_difference is not None:
        difference = f", outputs within {100 * result.largest_difference:.2g} % of the largest"
    print_text(
        f"{result.path}: {result.recipe}, {result.nodes} nodes of {result.nodes_before}, "
        f"{result.network_bytes / MIB:.2f} MiB of {result.source_bytes / MIB:.2f}{difference}"
    )
    return 0
