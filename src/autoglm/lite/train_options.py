"""Command-line options of a training run and the plan they make."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from autoglm.lite.gradients import peak_tflops
from autoglm.lite.model import LiteConfig
from autoglm.lite.optim import Schedule


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that shapes a run."""

    out: Path
    minutes: float | None
    steps: int | None
    leg_minutes: float | None
    batch_rows: int
    micro_rows: int
    answer_share: float
    final_answer_share: float
    schedule: Schedule
    matrix_lr: float
    other_lr: float
    weight_decay: float
    z_coefficient: float
    clip: float
    save_minutes: float
    eval_steps: int
    kernels: str
    use_compile: bool
    peak_tflops: float | None
    seed: int


def parse_options(description: str | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=description)
    _add_data(parser)
    _add_shape(parser)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float)
    budget.add_argument("--steps", type=int)
    budget.add_argument("--tokens", type=float, help="rounded to whole updates")
    parser.add_argument("--leg-minutes", type=float, help="save and end after this time")
    parser.add_argument("--batch-rows", type=int, default=16, help="rows of one update")
    parser.add_argument("--micro-rows", type=int, help="rows computed at once (default: all)")
    parser.add_argument("--matrix-lr", type=float, default=0.01)
    parser.add_argument("--other-lr", type=float, default=0.003)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--z-loss", type=float, default=1e-5)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--warmup", type=float, default=0.02)
    parser.add_argument("--decay-from", type=float, default=0.7)
    parser.add_argument("--final-factor", type=float, default=0.0)
    parser.add_argument("--save-minutes", type=float, default=4.0)
    parser.add_argument("--eval-steps", type=int, default=200)
    parser.add_argument("--kernels", choices=("auto", "torch"), default="auto")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="for MFU, where it is not known")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--packed", type=Path, required=True, help="packed texts")
    parser.add_argument("--answers", type=Path, help="packed examples, mixed in by share")
    parser.add_argument("--answer-share", type=float, default=0.3)
    parser.add_argument("--final-answer-share", type=float, default=0.7, help="while decaying")
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--held-out-answers", type=Path)
    parser.add_argument("--row-tokens", type=int, help="read texts in rows of another length")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="checkpoint whose shape and weights start this")


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--intermediate", type=int, default=1280)


def model_config(args: argparse.Namespace) -> LiteConfig:
    """The shape the options ask for."""
    return LiteConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        num_layers=args.layers,
        num_heads=args.heads,
        intermediate_size=args.intermediate,
    )


def make_plan(args: argparse.Namespace, row_tokens: int) -> Plan:
    """The plan the options ask for, a budget in tokens turned into updates."""
    steps = args.steps
    if args.tokens:
        steps = max(1, round(args.tokens / (args.batch_rows * row_tokens)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Plan(
        out=args.out,
        minutes=args.minutes,
        steps=steps,
        leg_minutes=args.leg_minutes,
        batch_rows=args.batch_rows,
        micro_rows=args.micro_rows or args.batch_rows,
        answer_share=args.answer_share,
        final_answer_share=args.final_answer_share,
        schedule=Schedule(args.warmup, args.decay_from, args.final_factor),
        matrix_lr=args.matrix_lr,
        other_lr=args.other_lr,
        weight_decay=args.weight_decay,
        z_coefficient=args.z_loss,
        clip=args.clip,
        save_minutes=args.save_minutes,
        eval_steps=args.eval_steps,
        kernels=args.kernels,
        use_compile=not args.no_compile,
        peak_tflops=args.peak_tflops or peak_tflops(device),
        seed=args.seed,
    )
