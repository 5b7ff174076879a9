"""Perplexity of a text under a model.

The text is scored as it is, without special tokens or a template. A text longer than the window is
scored in windows that advance by the stride; each token counts once, with at least window - stride
tokens before it (except in the first window).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

from autoglm.cli.interrupt import exit_on_interrupt
from autoglm.cli.options import (
    add_json_option,
    add_model_option,
    add_threads_option,
    whole_number,
)
from autoglm.cli.output import Progress, print_json, print_text
from autoglm.config import load_settings
from autoglm.errors import InputError, UsageError
from autoglm.inputs.text import read_text

DEFAULT_WINDOW = 2048
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_option(parser)
    parser.add_argument("--file", metavar="TEXT", required=True, help="UTF-8 text, - for stdin")
    parser.add_argument(
        "--window",
        metavar="N",
        type=whole_number(2),
        help=f"tokens in view (default: the context, at most {DEFAULT_WINDOW})",
    )
    parser.add_argument(
        "--stride",
        metavar="N",
        type=whole_number(1),
        help="tokens the window advances by (default: half the window)",
    )
    add_threads_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print num_tokens, nll (natural log, summed over the tokens) and perplexity."""
    settings = load_settings({"model": args.model, "threads": args.threads})
    text = read_text(args.file, max_bytes=settings.max_text_mib * MIB)
    from autoglm.engine.model import load_model

    with load_model(settings.model, threads=settings.threads) as model:
        window, stride = _window(args, model.config.max_position)
        ids = model.tokenizer.encode(text)
        if len(ids) < 2:
            message = f"{args.file}: has {len(ids)} token; scoring needs at least 2"
            raise InputError(message)
        with (
            exit_on_interrupt(),
            Progress("scoring", total=len(ids), unit="tokens") as progress,
        ):
            nll = windowed_nll(
                ids, model.score, window=window, stride=stride, on_progress=progress.update
            )
    num_tokens = len(ids) - 1
    result = {
        "num_tokens": num_tokens,
        "nll": nll,
        "perplexity": math.exp(nll / num_tokens),
        "window": window,
        "stride": stride,
    }
    if args.json:
        print_json(result)
    else:
        print_text(
            f"perplexity {result['perplexity']:.4f} over {num_tokens} tokens "
            f"(nll {nll:.2f} nats, window {window}, stride {stride})"
        )
    return 0


def windowed_nll(
    ids: Sequence[int],
    score: Callable[[list[int]], float],
    *,
    window: int,
    stride: int,
    on_progress: Callable[[int], None],
) -> float:
    """Negative log likelihood of ids[1:], in nats.

    `score(ids)` is that of one window. What a later window adds is its own score less that of
    the part which earlier windows have covered, seen from the same start.
    """
    end = min(window, len(ids))
    total = score(list(ids[:end]))
    on_progress(end)
    while end < len(ids):
        next_end = min(end + stride, len(ids))
        start = next_end - window
        covered = score(list(ids[start:end])) if end - start > 1 else 0.0
        total += score(list(ids[start:next_end])) - covered
        end = next_end
        on_progress(end)
    return total


def _window(args: argparse.Namespace, max_position: int) -> tuple[int, int]:
    window = args.window or min(max_position, DEFAULT_WINDOW)
    if window > max_position:
        message = f"--window is {window}; the model's context is {max_position} tokens"
        raise UsageError(message)
    stride = args.stride or window // 2
    if stride >= window:
        message = f"--stride is {stride}; it must be below the window of {window} tokens"
        raise UsageError(message)
    return window, stride
