"""Option types that several commands share; a value out of range is named in the error."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from autoglm.config import PRECISIONS


def whole_number(minimum: int) -> Callable[[str], int]:
    """An argparse type for integers of at least `minimum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            message = f"{text!r} is not a whole number of at least {minimum}"
            raise argparse.ArgumentTypeError(message)
        return value

    return parse


def add_model_option(parser: argparse.ArgumentParser, *, is_required: bool = False) -> None:
    """Declare --model; without it the commands use the LITE model of the package."""
    text = "directory of the bundle" + ("" if is_required else " (default: the LITE model)")
    parser.add_argument("--model", metavar="DIR", required=is_required, help=text)


def add_threads_option(parser: argparse.ArgumentParser) -> None:
    """Declare --threads."""
    parser.add_argument(
        "--threads",
        metavar="T",
        type=whole_number(1),
        help="worker threads (default: $AUTOGLM_THREADS, else the physical cores)",
    )


def add_window_option(parser: argparse.ArgumentParser) -> None:
    """Declare --window."""
    parser.add_argument(
        "--window",
        metavar="W",
        type=whole_number(0),
        help="attend to the beginning and the latest W tokens (default: 0, to all)",
    )


def add_draft_option(parser: argparse.ArgumentParser) -> None:
    """Declare --draft-model."""
    parser.add_argument(
        "--draft-model",
        metavar="DIR",
        help="a smaller bundle with the same tokenizer: the same answers, faster",
    )


def add_expert_memory_option(parser: argparse.ArgumentParser) -> None:
    """Declare --expert-memory."""
    parser.add_argument(
        "--expert-memory",
        dest="expert_memory_mib",
        metavar="MIB",
        type=whole_number(0),
        help="memory for the experts of a mixture, the others are read from disk when needed "
        "(default: 0, all are mapped)",
    )


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Declare --precision."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="bits of activations and KV cache: 8 for fast (the default), 16 for exact",
    )


def add_reader_option(parser: argparse.ArgumentParser) -> None:
    """Declare --no-reader."""
    parser.add_argument(
        "--no-reader",
        dest="reader",
        action="store_false",
        default=None,
        help="let the model write every answer, also those that can be extracted from the text",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
