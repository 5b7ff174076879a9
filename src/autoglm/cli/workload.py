"""The work that `bench` and `profile` measure: random tokens before, in and after a prompt."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

from autoglm.cli.options import whole_number
from autoglm.errors import ContextOverflowError


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Read `depth` tokens, then measure a prompt and the tokens after it."""

    prompt_tokens: int
    gen_tokens: int
    depth: int

    @property
    def context_tokens(self) -> int:
        """Tokens in the KV cache at the end."""
        return self.depth + self.prompt_tokens + self.gen_tokens + 1


def add_workload_options(parser: argparse.ArgumentParser) -> None:
    """Declare --prompt-tokens, --gen-tokens and --depth."""
    for name, metavar, default, minimum, text in (
        ("--prompt-tokens", "P", 256, 1, "tokens of the timed prompt"),
        ("--gen-tokens", "G", 32, 1, "tokens timed after the first one"),
        ("--depth", "D", 0, 0, "tokens in the KV cache before the prompt"),
    ):
        parser.add_argument(
            name,
            metavar=metavar,
            type=whole_number(minimum),
            default=default,
            help=f"{text} (default: {default})",
        )


def workload(args: argparse.Namespace, max_position: int) -> Workload:
    """The work that the options ask for; raises ContextOverflowError when it does not fit."""
    work = Workload(prompt_tokens=args.prompt_tokens, gen_tokens=args.gen_tokens, depth=args.depth)
    if work.context_tokens > max_position:
        message = (
            f"depth, prompt and generated tokens are {work.context_tokens} together; "
            f"the model's context is {max_position}"
        )
        raise ContextOverflowError(message)
    return work


def random_ids(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    """Token ids that no cache has seen."""
    return [rng.randrange(vocab_size) for _ in range(count)]
