"""Training loop for pre-training and instruction tuning: resumable, bf16, CPU or one GPU.

Run as `python -m autoglm.lite.train --packed DIR --out DIR --steps N`, or with a budget in minutes
or tokens. A second run with the same `--out` goes on where the last checkpoint ended. Data order
depends on packed files, seed and step; the learning rate on the share of the budget used.
"""

import json
import math
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from autoglm.lite.checkpoint import save_weights
from autoglm.lite.gradients import (
    GradientStep,
    StepOptions,
    TorchStep,
    choose_step,
    flops_per_token,
)
from autoglm.lite.induction import Circuit
from autoglm.lite.model import LiteConfig, LiteModel
from autoglm.lite.optim import Muon, build_optimizers
from autoglm.lite.packed import Batch, BatchReader, PackedRows, Positions
from autoglm.lite.train_options import Plan, make_plan, model_config, parse_options

_EVAL_ROWS = 64


@dataclass(frozen=True, slots=True)
class Sets:
    """Packed rows to train on and to measure on; answers are examples with loss on replies."""

    texts: PackedRows
    answers: PackedRows | None
    held_out: dict[str, PackedRows]


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
        self.positions = Positions()
        self._is_stopping = False
        self.circuit: Circuit | None = None
        self._held: dict[str, Tensor] = {}

    def hold(self, circuit: Circuit) -> None:
        """Keep a circuit at its present values through all updates."""
        self.circuit = Circuit(circuit.fixed, circuit.reserved.to(self.device))
        views = circuit.values(self.model).items()
        self._held = {name: view.clone() for name, view in views}

    def progress(self, ahead: int = 0) -> float:
        """Share of the budget used, in [0, 1], when `ahead` more updates are done."""
        if self.plan.steps:
            return min(1.0, (self.step + ahead) / self.plan.steps)
        return min(1.0, self.elapsed_s / (60.0 * (self.plan.minutes or 1.0)))

    def _read(self, reader: BatchReader, at: Positions, ahead: int) -> Batch:
        is_decaying = self.progress(ahead) >= self.plan.schedule.decay_from
        share = self.plan.final_answer_share if is_decaying else self.plan.answer_share
        num_rows = self.plan.batch_rows
        return reader.read(at, num_rows=num_rows, num_answers=round(share * num_rows))

    def train_step(
        self, gradients: GradientStep, batch: list[tuple[Tensor, Tensor]]
    ) -> dict[str, Any]:
        """One update; returns its measurements."""
        started, processor_started = time.perf_counter(), time.process_time()
        count = max(1, sum(int((targets >= 0).sum()) for _, targets in batch))
        total = torch.zeros((), device=self.device)
        for ids, targets in batch:
            total += gradients.add_gradients(
                ids, targets, scale=1.0 / count, z_coefficient=self.plan.z_coefficient
            )
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        factor = self.plan.schedule.factor(self.progress())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        if self.circuit:
            self.circuit.hold(self.model, self._held)
        gradients.refresh()
        self.step += 1
        entry = {"loss": float(total) / count, "grad_norm": float(norm), "lr_factor": factor}
        seconds = time.perf_counter() - started
        self.elapsed_s += seconds
        return entry | self._speed(batch, seconds, time.process_time() - processor_started)

    def _speed(
        self, batch: list[tuple[Tensor, Tensor]], seconds: float, processor_s: float
    ) -> dict[str, Any]:
        num_tokens = sum(ids.numel() for ids, _ in batch)
        self.tokens += num_tokens
        row_tokens = batch[0][0].shape[1]
        flops = flops_per_token(self.model.config, self.model.num_parameters(), row_tokens)
        tflops = 1e-12 * flops * num_tokens / seconds
        peak = self.plan.peak_tflops
        return {
            "tokens_per_s": num_tokens / seconds,
            "processor_s": processor_s,
            "tflops": tflops,
            "mfu": tflops / peak if peak else None,
            "step": self.step,
            "elapsed_s": round(self.elapsed_s, 2),
            "tokens": self.tokens,
        }

    def evaluate(self, rows: PackedRows) -> float:
        """Mean loss per token over the first rows."""
        step = TorchStep(self.model, self.device, use_compile=False)
        total, count = 0.0, 0
        with torch.no_grad():
            for first in range(0, min(_EVAL_ROWS, rows.num_rows), self.plan.micro_rows):
                last = min(first + self.plan.micro_rows, rows.num_rows)
                ids, targets = rows.batch(range(first, last))
                total += float(step.loss(ids, targets, 0.0))
                count += int((targets >= 0).sum())
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
            "positions": asdict(self.positions),
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
        self.positions = Positions(**state["positions"])
        if state["circuit"]:
            self.hold(Circuit(**state["circuit"]))

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: finish the step, save, end."""
        self._is_stopping = True

    def run(self, sets: Sets) -> None:
        """Train to the end of the budget or of this leg; SIGTERM ends it after the update."""
        previous = signal.signal(signal.SIGTERM, self.request_stop)
        try:
            self._run(sets)
        finally:
            signal.signal(signal.SIGTERM, previous)
        self.save()
        save_weights(self.model, self.plan.out / "weights.pt")

    def _run(self, sets: Sets) -> None:
        plan = self.plan
        started = last_save = time.perf_counter()
        options = StepOptions(
            plan.micro_rows, sets.texts.row_tokens, plan.kernels, plan.use_compile
        )
        gradients = choose_step(self.model, self.device, options)
        for optimizer in self.optimizers:
            if isinstance(optimizer, Muon):
                optimizer.orthogonalise = gradients.orthogonalise
        reader = BatchReader(sets.texts, sets.answers, micro_rows=plan.micro_rows, seed=plan.seed)
        leg_s = 60.0 * (plan.leg_minutes or math.inf)
        # One thread reads the next update while this one is computed.
        with (plan.out / "log.jsonl").open("a") as log, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._read, reader, self.positions, 0)
            while self.progress() < 1.0 and not self._is_stopping:
                if time.perf_counter() - started > leg_s:
                    break
                batch = waiting.result()
                waiting = pool.submit(self._read, reader, batch.following, 1)
                entry = self.train_step(gradients, batch.parts) | {"kernels": gradients.name}
                self.positions = batch.following
                if self.step % plan.eval_steps == 0:
                    for name, rows in sets.held_out.items():
                        entry[f"{name}_loss"] = self.evaluate(rows)
                log.write(json.dumps(entry) + "\n")
                log.flush()
                if time.perf_counter() - last_save > 60.0 * plan.save_minutes:
                    self.save()
                    last_save = time.perf_counter()


def start(model: LiteModel, plan: Plan, sets: Sets, initial: dict[str, Any]) -> None:
    """Begin or resume the run in `plan.out`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(model, plan, device)
    checkpoint = plan.out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    elif initial.get("circuit"):
        trainer.hold(Circuit(**initial["circuit"]))
    trainer.run(sets)


def main() -> None:
    """Command line entry."""
    args = parse_options(__doc__)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = PackedRows(args.packed, args.row_tokens)
    initial: dict[str, Any] = {}
    if args.init:
        initial = torch.load(args.init, map_location="cpu", weights_only=True)
    config = LiteConfig(**initial["config"]) if initial else model_config(args)
    model = LiteModel(config)
    if initial:
        model.load_state_dict(initial["model"])
    held_out = {"held_out": args.held_out, "held_out_answers": args.held_out_answers}
    sets = Sets(
        texts,
        PackedRows(args.answers, args.row_tokens) if args.answers else None,
        {name: PackedRows(folder) for name, folder in held_out.items() if folder},
    )
    start(model, make_plan(args, texts.row_tokens), sets, initial)


if __name__ == "__main__":
    main()
