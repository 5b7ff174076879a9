"""Talk with the model. /reset forgets the conversation, /help lists the commands, /exit ends."""

from __future__ import annotations

import argparse
import sys

from autoglm.cli.generate import add_place_options, add_sampling_options, as_json, settings_from
from autoglm.cli.interrupt import cancel_on_interrupt
from autoglm.cli.kept_chat import KeptChat, kept_chat
from autoglm.cli.options import (
    add_draft_option,
    add_model_option,
    add_threads_option,
    add_window_option,
)
from autoglm.cli.output import note, print_json, print_text
from autoglm.errors import AutoGLMError, CancelledError, InputError
from autoglm.runtime import Runtime
from autoglm.types import Message, Request, Result, SamplingParams

PROMPT = "> "
HELP = "/help   this text\n/reset  forget the conversation\n/exit   end (also Ctrl-D)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_option(parser)
    add_sampling_options(parser)
    add_place_options(parser)
    add_window_option(parser)
    add_draft_option(parser)
    add_threads_option(parser)
    parser.add_argument(
        "--keep", metavar="NAME", help="go on with the conversation NAME, which the vault keeps"
    )
    parser.add_argument("--json", action="store_true", help="print each answer as a JSON document")


def run(args: argparse.Namespace) -> int:
    """Read lines from standard input until it ends."""
    with kept_chat(args.keep) as kept:
        _converse(args, kept)
    return 0


def _converse(args: argparse.Namespace, kept: KeptChat | None) -> None:
    sampling = SamplingParams(temperature=args.temperature, seed=args.seed)
    runtime = Runtime(settings_from(args))
    runtime.load()
    history = [] if kept is None else kept.load()
    if history:
        note(f"{len(history)} turns of before; /reset forgets them.")
    while (line := _read_line()) is not None:
        match line:
            case "":
                continue
            case "/exit":
                break
            case "/reset":
                history = []
                if kept is not None:
                    kept.forget()
                note("The conversation is forgotten.")
            case "/help":
                note(HELP)
            case command if command.startswith("/"):
                note(f"unknown command {command.split()[0]}; /help lists them")
            case _:
                messages = (*history, Message("user", line))
                request = Request(messages=messages, max_tokens=args.max_tokens, sampling=sampling)
                history = _turn(runtime, request, history, is_json=args.json)
                if kept is not None:
                    kept.save(history)


def _turn(
    runtime: Runtime, request: Request, history: list[Message], *, is_json: bool
) -> list[Message]:
    """Answer one line and return the longer history; an error costs this line only."""
    try:
        result = _answer(runtime, request, is_json=is_json)
    except CancelledError:
        raise
    except AutoGLMError as err:
        note(f"autoglm: {err} (/reset starts again)", is_error=True)
        return history
    if is_json:
        print_json(as_json(result))
    return [*request.messages, Message("assistant", result.text)]


def _answer(runtime: Runtime, request: Request, *, is_json: bool) -> Result:
    result: Result | None = None
    with cancel_on_interrupt(request.cancellation.cancel):
        for chunk in runtime.stream(request):
            result = chunk.result
            if not is_json:
                print_text(chunk.text, end="")
    if not is_json:
        print_text("")
    if result is None or result.finish_reason == "cancelled":
        message = "interrupted"
        raise CancelledError(message)
    return result


def _read_line() -> str | None:
    """The next line without its end, None when there is none; asks for it on a terminal."""
    if sys.stdin.isatty():
        sys.stderr.write(PROMPT)
        sys.stderr.flush()
    line = sys.stdin.buffer.readline()
    try:
        return line.decode().strip() if line else None
    except UnicodeDecodeError as err:
        message = "standard input is not UTF-8; check the encoding of the terminal"
        raise InputError(message) from err
