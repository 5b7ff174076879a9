"""Training loop for pre-training and instruction tuning: resumable, bf16, CPU or one GPU.

Run as `python -m autoglm.lite.train --packed DIR --out DIR (--minutes M | --steps N)`. A second
run with the same `--out` goes on where the last checkpoint ended. Data order depends only on the
packed files and the step; the learning rate on the share of the budget used.
"""

import argparse
import json
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoglm.errors import InvalidRequestError
from autoglm.lite import model as lite_model
from autoglm.lite.induction import Circuit
from autoglm.lite.model import ChunkedCrossEntropy, LiteConfig, LiteModel
from autoglm.lite.optim import Schedule, build_optimizers


class PackedRows:
    """Memory-mapped rows of token ids with their loss masks."""

    def __init__(self, folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text())
        self.row_tokens: int = card["row_tokens"]
        self._tokens = self._open(folder, "tokens", np.uint16)
        self._mask = self._open(folder, "mask", np.uint8)
        self.num_rows = sum(len(part) for part in self._tokens)
        if not self.num_rows:
            message = f"{folder}: no packed rows; run autoglm.lite.pack first"
            raise InvalidRequestError(message)

    def _open(self, folder: Path, kind: str, dtype: type) -> list[Any]:
        files = sorted(folder.glob(f"{kind}_*.bin"))
        return [np.memmap(f, dtype=dtype, mode="r").reshape(-1, self.row_tokens) for f in files]

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets [count, row_tokens]; a target of -1 carries no loss."""
        rows = [self._row(index % self.num_rows) for index in range(first, first + count)]
        ids = torch.from_numpy(np.stack([row[0] for row in rows]).astype(np.int64))
        mask = torch.from_numpy(np.stack([row[1] for row in rows]))
        targets = torch.full_like(ids, -1)
        targets[:, :-1] = torch.where(mask[:, 1:] > 0, ids[:, 1:], -1)
        return ids, targets

    def _row(self, index: int) -> tuple[Any, Any]:
        for tokens, mask in zip(self._tokens, self._mask, strict=True):
            if index < len(tokens):
                return tokens[index], mask[index]
            index -= len(tokens)
        message = f"row {index} is beyond the packed files"
        raise InvalidRequestError(message)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that shapes a run."""

    out: Path
    minutes: float | None
    steps: int | None
    batch_rows: int
    schedule: Schedule
    matrix_lr: float
    other_lr: float
    weight_decay: float
    z_coefficient: float
    clip: float
    save_minutes: float
    eval_steps: int
    use_compile: bool
    seed: int


class Trainer:
    """Model, optimizers and position of one run."""

    def __init__(self, model: LiteModel, plan: Plan, device: torch.device) -> None:
        self.model = model.to(device)
        self.plan = plan
        self.device = device
        self.optimizers = build_optimizers(
            self.model, plan.matrix_lr, plan.other_lr, plan.weight_decay
        )
        self.step = 0
        self.tokens = 0
        self.elapsed_s = 0.0
        self._is_stopping = False
        self.circuit: Circuit | None = None
        self._held: dict[str, Tensor] = {}
        self._hidden = self.model.hidden
        if plan.use_compile:
            self._hidden = torch.compile(self.model.hidden, dynamic=False)
            lite_model.chunk_loss = torch.compile(lite_model.chunk_loss)

    def hold(self, circuit: Circuit) -> None:
        """Keep a circuit at its present values through all updates."""
        self.circuit = Circuit(circuit.fixed, circuit.reserved.to(self.device))
        views = circuit.values(self.model).items()
        self._held = {name: view.clone() for name, view in views}

    def progress(self) -> float:
        """Share of the budget used, in [0, 1]."""
        if self.plan.steps:
            return min(1.0, self.step / self.plan.steps)
        return min(1.0, self.elapsed_s / (60.0 * (self.plan.minutes or 1.0)))

    def loss(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        """Summed loss and the number of tokens it covers."""
        ids, targets = ids.to(self.device), targets.to(self.device).flatten()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            states = self._hidden(ids).flatten(0, 1).to(torch.bfloat16)
        total = ChunkedCrossEntropy.apply(
            states, self.model.embed.weight, targets, self.plan.z_coefficient
        )
        return total, int((targets >= 0).sum())

    def train_step(self, rows: PackedRows) -> dict[str, float]:
        """One update; returns its measurements."""
        started = time.perf_counter()
        first = self.step * self.plan.batch_rows
        total, count = self.loss(*rows.batch(first, self.plan.batch_rows))
        loss = total / max(1, count)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        factor = self.plan.schedule.factor(self.progress())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        if self.circuit:
            self.circuit.hold(self.model, self._held)
        self.step += 1
        self.tokens += self.plan.batch_rows * rows.row_tokens
        value = float(loss.detach())
        seconds = time.perf_counter() - started
        self.elapsed_s += seconds
        tokens_per_s = self.plan.batch_rows * rows.row_tokens / seconds
        return {
            "loss": value,
            "grad_norm": float(norm),
            "lr_factor": factor,
            "tokens_per_s": tokens_per_s,
            "tflops": 6e-12 * self.model.num_parameters() * tokens_per_s,
        }

    def evaluate(self, rows: PackedRows, num_rows: int = 64) -> float:
        """Mean loss per token over the first rows."""
        total, count = 0.0, 0
        with torch.no_grad():
            for first in range(0, min(num_rows, rows.num_rows), self.plan.batch_rows):
                loss, covered = self.loss(*rows.batch(first, self.plan.batch_rows))
                total, count = total + float(loss), count + covered
        return total / max(1, count)

    def save(self) -> None:
        """Write the checkpoint beside the old one, then replace it."""
        path = self.plan.out / "checkpoint.pt"
        state = {
            "config": self.model.config.as_dict(),
            "model": self.model.state_dict(),
            "circuit": asdict(self.circuit) if self.circuit else None,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "elapsed_s": self.elapsed_s,
            "rng": torch.get_rng_state(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint of the same run."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.elapsed_s = state["step"], state["tokens"], state["elapsed_s"]
        torch.set_rng_state(state["rng"].cpu())
        if state["circuit"]:
            self.hold(Circuit(**state["circuit"]))

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: finish the step, save, end."""
        self._is_stopping = True

    def run(self, rows: PackedRows, held_out: PackedRows | None) -> None:
        """Train to the end of the budget."""
        signal.signal(signal.SIGTERM, self.request_stop)
        last_save = time.perf_counter()
        with (self.plan.out / "log.jsonl").open("a") as log:
            while self.progress() < 1.0 and not self._is_stopping:
                entry: dict[str, float] = self.train_step(rows)
                entry |= {
                    "step": self.step,
                    "elapsed_s": round(self.elapsed_s, 2),
                    "tokens": self.tokens,
                }
                if held_out and self.step % self.plan.eval_steps == 0:
                    entry["held_out_loss"] = self.evaluate(held_out)
                log.write(json.dumps(entry) + "\n")
                log.flush()
                if time.perf_counter() - last_save > 60.0 * self.plan.save_minutes:
                    self.save()
                    last_save = time.perf_counter()
        self.save()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packed", type=Path, required=True)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="checkpoint whose weights start this run")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float)
    budget.add_argument("--steps", type=int)
    parser.add_argument("--batch-rows", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--intermediate", type=int, default=1280)
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
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Command line entry."""
    args = _arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    config = LiteConfig(
        hidden_size=args.hidden,
        num_layers=args.layers,
        num_heads=args.heads,
        intermediate_size=args.intermediate,
    )
    model = LiteModel(config)
    initial = torch.load(args.init, map_location="cpu", weights_only=True) if args.init else {}
    if initial:
        model.load_state_dict(initial["model"])
    plan = Plan(
        out=args.out,
        minutes=args.minutes,
        steps=args.steps,
        batch_rows=args.batch_rows,
        schedule=Schedule(args.warmup, args.decay_from, args.final_factor),
        matrix_lr=args.matrix_lr,
        other_lr=args.other_lr,
        weight_decay=args.weight_decay,
        z_coefficient=args.z_loss,
        clip=args.clip,
        save_minutes=args.save_minutes,
        eval_steps=args.eval_steps,
        use_compile=not args.no_compile,
        seed=args.seed,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(model, plan, device)
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    elif initial.get("circuit"):
        trainer.hold(Circuit(**initial["circuit"]))
    held_out = PackedRows(args.held_out) if args.held_out else None
    trainer.run(PackedRows(args.packed), held_out)


if __name__ == "__main__":
    main()
