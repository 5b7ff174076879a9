"""Train TINY, LITE's draft model: a narrow network that predicts what LITE would say next.

Run as `python -m autoglm.lite.distil --teacher CHECKPOINT --packed DIR --answers DIR --out DIR`.
Every token of the packed rows is a lesson: the loss is the cross entropy to the teacher's
distribution. The embedding begins as the teacher's, projected onto its leading directions.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from autoglm.lite.checkpoint import load_checkpoint, save_weights
from autoglm.lite.model import LiteModel
from autoglm.lite.optim import Schedule, build_optimizers
from autoglm.lite.packed import BatchReader, PackedRows, Positions

_CHUNK_TOKENS = 512
_SCHEDULE = Schedule(warmup=0.05, decay_from=0.4)
_MATRIX_LR, _OTHER_LR, _WEIGHT_DECAY, _CLIP = 0.01, 0.001, 0.01, 1.0


def student_of(teacher: LiteModel, args: argparse.Namespace) -> LiteModel:
    """A smaller model whose table of tokens is the teacher's in fewer dimensions."""
    config = replace(
        teacher.config,
        hidden_size=args.hidden,
        num_layers=args.layers,
        num_heads=args.heads,
        num_kv_heads=1,
        intermediate_size=args.intermediate,
    )
    student = LiteModel(config, torch.Generator().manual_seed(args.seed))
    table = teacher.embed.weight.detach()
    _, _, directions = torch.linalg.svd(table, full_matrices=False)
    with torch.no_grad():
        student.embed.weight.copy_(table @ directions[: args.hidden].T)
    return student


def divergence(student: LiteModel, teacher: LiteModel, ids: Tensor) -> tuple[Tensor, int]:
    """Cross entropy to the teacher's distribution per token, its gradients added; and agreements.

    The logits of the batch are never held at once: each chunk turns into gradients of the states.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            wanted = teacher.hidden(ids).flatten(0, 1)
        states = student.hidden(ids).flatten(0, 1)
    held = states.detach().float().requires_grad_()
    num, total, num_same = len(held), torch.zeros(()), 0
    for start in range(0, num, _CHUNK_TOKENS):
        part = slice(start, start + _CHUNK_TOKENS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                goal = F.linear(wanted[part], teacher.embed.weight).float()
            logits = F.linear(held[part], student.embed.weight).float()
        loss = F.cross_entropy(logits, goal.softmax(-1), reduction="sum") / num
        loss.backward()
        total += loss.detach()
        num_same += int((goal.argmax(-1) == logits.detach().argmax(-1)).sum())
    states.backward(held.grad.to(states.dtype) if held.grad is not None else None)
    return total, num_same


def distil(student: LiteModel, teacher: LiteModel, args: argparse.Namespace) -> None:
    """Train for `args.steps` updates; writes the log and the weights to `args.out`."""
    optimizers = build_optimizers(student, _MATRIX_LR, _OTHER_LR, _WEIGHT_DECAY)
    texts, answers = PackedRows(args.packed), PackedRows(args.answers)
    reader = BatchReader(texts, answers, micro_rows=args.rows, seed=args.seed)
    at = Positions()
    started = time.perf_counter()
    with (args.out / "log.jsonl").open("w") as log:
        for step in range(args.steps):
            batch = reader.read(
                at, num_rows=args.rows, num_answers=round(args.answer_share * args.rows)
            )
            at = batch.following
            ids = batch.parts[0][0]
            loss, num_same = divergence(student, teacher, ids)
            torch.nn.utils.clip_grad_norm_(student.parameters(), _CLIP)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * _SCHEDULE.factor(step / args.steps)
                optimizer.step()
                optimizer.zero_grad()
            entry = {
                "step": step + 1,
                "tokens": (step + 1) * ids.numel(),
                "loss": float(loss),
                "agreement": num_same / ids.numel(),
                "elapsed_s": round(time.perf_counter() - started, 1),
            }
            log.write(json.dumps(entry) + "\n")
            log.flush()
    save_weights(student, args.out / "weights.pt")


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint or weights of LITE")
    parser.add_argument("--packed", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--answer-share", type=float, default=0.75)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--intermediate", type=int, default=448)
    parser.add_argument("--rows", type=int, default=4, help="of an update")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    teacher = load_checkpoint(args.teacher)
    student = student_of(teacher, args)
    distil(student, teacher.eval().requires_grad_(False), args)


if __name__ == "__main__":
    main()
