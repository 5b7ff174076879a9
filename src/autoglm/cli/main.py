"""Entry point of the command line: finds the subcommand, builds its parser only, reports errors.

A command is a module of this package with `add_arguments(parser)` and `run(args) -> int`.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from autoglm.errors import AutoGLMError, CancelledError, ResourceError, StorageError, UsageError

COMMANDS = {
    "generate": "answer a prompt, about a text file if one is given",
    "chat": "talk with the model",
    "serve": "answer the requests of other programs",
    "config": "show and check the settings, or let a service read them again",
    "convert": "turn a Hugging Face checkpoint into a bundle",
    "compress": "make a checkpoint smaller and faster by a recipe",
    "verify": "check a bundle against its manifest",
    "bench": "measure prefill and decode speed, start and memory",
    "profile": "show where the time goes, by layer and step",
    "score": "perplexity of a text",
    "eval": "score a model on public tasks, next to what needs no model",
    "privacy": "show what would leave the device, and check the log of what left",
    "cloud": "serve devices: synchronisation, and answers of a larger model",
    "vault": "look after the encrypted store: create, status, rotate, export, erase",
    "doctor": "show what this machine has and which kernels are used",
}


class CommandModule(Protocol):
    """What a subcommand's file provides."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a wrong call as one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with a pointer to the help."""
        text = f"{message} (see: {self.prog} --help)"
        raise UsageError(text)


def load_command(name: str) -> CommandModule:
    """Import one subcommand."""
    return cast(CommandModule, importlib.import_module(f"autoglm.cli.{name}"))


def command_parser(name: str, command: CommandModule) -> Parser:
    """The parser of one subcommand."""
    parser = Parser(
        prog=f"autoglm {name}",
        description=(command.__doc__ or COMMANDS[name]).strip().partition("\n")[0],
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def overview() -> str:
    """The help text of `autoglm` itself."""
    commands = "\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())
    return (
        "usage: autoglm COMMAND [OPTIONS]\n\n"
        "Language models on the device.\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n  -h, --help  show this text; after a command, the help of that command\n"
        "  --version   show the version\n"
    )


def main(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name). Raises what the command raises."""
    if not argv:
        sys.stderr.write(overview())
        return 2
    name, *rest = argv
    if name in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if name == "--version":
        from autoglm import __version__

        sys.stdout.write(f"autoglm {__version__}\n")
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        message = f"unknown {kind} {name!r}; the commands are {', '.join(COMMANDS)}"
        raise UsageError(message)
    command = load_command(name)
    args = command_parser(name, command).parse_args(rest)
    return command.run(args)


def _report(err: BaseException) -> int:
    """Print an error as one line and return its exit code."""
    if isinstance(err, KeyboardInterrupt):
        # CPython remembers an interrupt that passed through an exec() of text (dataclasses use it)
        # and would end by the signal, not with our code, until the next exec() of text.
        exec("")
        err = CancelledError("interrupted")
    elif isinstance(err, MemoryError):
        err = ResourceError("out of memory")
    elif isinstance(err, OSError):
        place = f"{err.filename}: " if err.filename else ""
        err = StorageError(f"{place}{err.strerror or type(err).__name__}")
    if isinstance(err, AutoGLMError):
        text, exit_code = str(err), err.exit_code
    else:
        # The message of an unexpected error may hold the user's text.
        text, exit_code = f"internal error ({type(err).__name__}); --debug shows where", 1
    from autoglm.cli.output import note

    note("autoglm: " + " ".join(text.split()), is_error=True)
    return exit_code


def _give_up_stdout() -> None:
    """Write what is left, or keep the interpreter from trying again at exit and complaining."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complete_streams() -> bool:
    """Replace streams that were closed at the start; False when standard output is.

    Python has None in their place. Their descriptors must not go to files opened later.
    """
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(os.devnull))
    if sys.stdout is None:
        return False
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"))
    return True


def entry_point() -> int:
    """Run the command line of this process; returns its exit code."""
    argv = sys.argv[1:]
    if not _complete_streams():
        if sys.stderr is not None:
            sys.stderr.write("autoglm: standard output is closed\n")
        return StorageError.exit_code
    try:
        # A character that the terminal cannot show must not end the program.
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        exit_code = main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_stdout()
        return 1
    except SystemExit as err:
        return err.code if isinstance(err.code, int) else 1
    except (Exception, KeyboardInterrupt) as err:
        if "--debug" in argv:
            raise
        exit_code = _report(err)
        _give_up_stdout()
    return exit_code
