"""Training throughput of LITE: plain torch, compiled torch and the native kernels, interleaved.

Speed is tokens by processor time of all threads, so that other work on the machine does not count.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch

from autoglm.errors import ResourceError
from autoglm.lite.gradients import (
    GradientStep,
    StepOptions,
    TorchStep,
    choose_step,
    flops_per_token,
)
from autoglm.lite.model import LiteConfig, LiteModel
from autoglm.lite.optim import Muon, build_optimizers

CPU = torch.device("cpu")
WAYS = ("plain torch", "compiled torch", "native")


def make_step(way: str, model: LiteModel, rows: int, row_tokens: int) -> GradientStep:
    """A way to compute gradients by its name in the table."""
    if way == "native":
        step = choose_step(model, CPU, StepOptions(rows, row_tokens, use_compile=False))
        if step.name != way:
            message = "the native kernels need a C++ compiler and a processor with AMX"
            raise ResourceError(message)
        return step
    return TorchStep(model, CPU, use_compile=way == "compiled torch")


def make_update(way: str, args: argparse.Namespace) -> Callable[[], None]:
    """One whole update: gradients of every micro-batch, clipping, optimizers."""
    config = LiteConfig(
        hidden_size=args.hidden, num_layers=args.layers, intermediate_size=args.intermediate
    )
    model = LiteModel(config, torch.Generator().manual_seed(1))
    step = make_step(way, model, args.micro_rows, args.row_tokens)
    optimizers = build_optimizers(model, 0.01, 0.003, 0.05)
    for optimizer in optimizers:
        if isinstance(optimizer, Muon):
            optimizer.orthogonalise = step.orthogonalise
    generator = torch.Generator().manual_seed(2)
    shape = (args.micro_rows, args.row_tokens)
    ids = torch.randint(0, config.vocab_size, shape, generator=generator)

    def update() -> None:
        for _ in range(args.micro_batches):
            step.add_gradients(ids, ids, scale=1e-5, z_coefficient=1e-5)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        step.refresh()

    return update


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--intermediate", type=int, default=1280)
    parser.add_argument("--row-tokens", type=int, default=512)
    parser.add_argument("--micro-rows", type=int, default=8)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    updates = {way: make_update(way, args) for way in args.ways}
    for update in updates.values():
        update()
    seconds: dict[str, list[float]] = {way: [] for way in updates}
    for _ in range(args.repeat):
        for way, update in updates.items():
            started = time.process_time()
            update()
            seconds[way].append((time.process_time() - started) / args.threads)
    num_tokens = args.micro_batches * args.micro_rows * args.row_tokens
    config = LiteConfig(
        hidden_size=args.hidden, num_layers=args.layers, intermediate_size=args.intermediate
    )
    size = LiteModel(config).num_parameters()
    flops = flops_per_token(config, size, args.row_tokens)
    print(f"{size / 1e6:.1f} M parameters, {num_tokens} tokens an update, {args.threads} threads")
    for way, taken in seconds.items():
        speed = num_tokens / median(taken)
        row = {"tokens_per_processor_s": round(speed), "tflops": round(1e-12 * flops * speed, 2)}
        print(f"{way:<16} {json.dumps(row)}")


if __name__ == "__main__":
    main()
