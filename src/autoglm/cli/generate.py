"""Answer a prompt, about a text file if one is given."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from autoglm.cli.interrupt import cancel_on_interrupt
from autoglm.cli.options import (
    add_draft_option,
    add_expert_memory_option,
    add_model_option,
    add_precision_option,
    add_reader_option,
    add_threads_option,
    add_window_option,
)
from autoglm.cli.output import Progress, note, print_json, print_text
from autoglm.config import Settings, load_settings
from autoglm.errors import CancelledError, InputError
from autoglm.inputs.text import read_text
from autoglm.runtime import Runtime
from autoglm.types import Message, Request, Result, SamplingParams

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("prompt", metavar="PROMPT", help="what to do")
    parser.add_argument("--file", metavar="F", help="UTF-8 text the prompt is about, - for stdin")
    add_model_option(parser)
    add_sampling_options(parser)
    add_place_options(parser)
    parser.add_argument("--stream", action="store_true", help="print the answer as it is written")
    add_window_option(parser)
    add_draft_option(parser)
    add_threads_option(parser)
    add_expert_memory_option(parser)
    add_precision_option(parser)
    add_reader_option(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document; with --stream one a chunk, the last with the result",
    )


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Declare where answers may come from."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--offline", action="store_true", default=None, help="answer on this device, always"
    )
    place.add_argument(
        "--online",
        dest="offline",
        action="store_false",
        default=None,
        help="ask the cloud where the privacy policy allows it, this device otherwise",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Declare the length of an answer and how its tokens are chosen."""
    parser.add_argument("--max-tokens", metavar="N", type=int, help="length limit of an answer")
    parser.add_argument(
        "--temperature", metavar="T", type=float, default=0.0, help="0 is greedy (default: 0)"
    )
    parser.add_argument("--seed", metavar="S", type=int, help="repeats an answer at T above 0")


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings, with the command's flags first."""
    names = (
        "model",
        "threads",
        "offline",
        "window",
        "draft_model",
        "expert_memory_mib",
        "precision",
        "reader",
    )
    return load_settings({name: getattr(args, name, None) for name in names})


def run(args: argparse.Namespace) -> int:
    """Print the answer."""
    check_utf8(args.prompt, "the prompt")
    settings = settings_from(args)
    text = None
    if args.file is not None:
        text = read_text(args.file, max_bytes=settings.max_text_mib * MIB)
    request = Request(
        messages=(Message("user", args.prompt),),
        text=text,
        max_tokens=args.max_tokens,
        sampling=SamplingParams(temperature=args.temperature, seed=args.seed),
    )
    result = _answer(Runtime(settings), request, is_streamed=args.stream, is_json=args.json)
    if args.json:
        print_json(as_json(result))
    elif not args.stream:
        print_text(result.text)
    if result.route.num_parts > 1 or not settings.offline:
        note(f"autoglm: {result.route.reason}")
    return 0


def check_utf8(text: str, name: str) -> None:
    """Raise InputError for what Python keeps of bytes that were not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        message = f"{name} is not UTF-8; check the encoding of the terminal"
        raise InputError(message) from err


def as_json(result: Result) -> dict[str, Any]:
    """The result as the documented keys."""
    usage = {
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
        "cached_tokens": result.usage.cached_tokens,
    }
    return {
        "text": result.text,
        "route": asdict(result.route),
        "usage": usage,
        "timings": asdict(result.timings),
        "finish_reason": result.finish_reason,
    }


def _answer(runtime: Runtime, request: Request, *, is_streamed: bool, is_json: bool) -> Result:
    """Run the request, printing its pieces when asked to."""
    result: Result | None = None
    num_tokens = 0
    with (
        cancel_on_interrupt(request.cancellation.cancel),
        Progress("answering", unit="tokens") as progress,
    ):
        for chunk in runtime.stream(request):
            num_tokens += len(chunk.token_ids)
            result = chunk.result
            if not is_streamed:
                progress.update(num_tokens)
            elif is_json and chunk.text:
                print_json({"text": chunk.text})
            elif not is_json:
                print_text(chunk.text, end="")
    if is_streamed and not is_json:
        print_text("")
    if result is None or result.finish_reason == "cancelled":
        message = "interrupted"
        raise CancelledError(message)
    return result
