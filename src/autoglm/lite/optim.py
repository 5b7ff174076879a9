# mypy: allow-subclassing-any
# torch is not installed where the gates run, so its classes are Any to mypy.
"""Muon for matrices, AdamW for the rest, and the warm-up / stable / decay schedule.

Muon orthogonalises the momentum of each matrix with a quintic Newton-Schulz iteration
(Jordan et al. 2024; scaling by shape as in Liu et al., arXiv 2502.16982).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoglm.lite.model import LiteModel

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_UPDATE_RMS = 0.2  # what AdamW's updates have, so that both take similar rates


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning-rate factor by training progress in [0, 1]: linear warm-up, constant, decay."""

    warmup: float = 0.02
    decay_from: float = 0.7
    final: float = 0.0

    def factor(self, progress: float) -> float:
        """Factor in [final, 1]."""
        if progress < self.warmup:
            return max(0.01, progress / self.warmup)
        if progress < self.decay_from:
            return 1.0
        left = max(0.0, (1.0 - progress) / (1.0 - self.decay_from))
        return self.final + (1.0 - self.final) * left


def orthogonalise(matrix: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix, approximately, in bfloat16."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix.to(torch.bfloat16)
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.t()
    x = x / (x.norm() + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.t()
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.t() if is_tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per matrix; fused projections are treated part by part."""

    def __init__(
        self, groups: Iterable[dict[str, object]], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self, closure: None = None) -> None:
        """Update every matrix once."""
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"]
        buffer.lerp_(parameter.grad, 1.0 - group["momentum"])
        direction = torch.lerp(parameter.grad, buffer, group["momentum"])
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        rows = group["split"] or [parameter.shape[0]]
        for part, target in zip(direction.split(rows), parameter.split(rows), strict=True):
            scale = _UPDATE_RMS * max(part.shape) ** 0.5
            target.add_(orthogonalise(part), alpha=-group["lr"] * scale)


def build_optimizers(
    model: LiteModel, matrix_lr: float, other_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon over the block matrices and AdamW over embeddings and norms."""
    config = model.config
    kv_size = config.num_kv_heads * config.head_dim
    splits = {
        "qkv": [config.num_heads * config.head_dim, kv_size, kv_size],
        "gate_up": [config.intermediate_size] * 2,
    }
    groups: list[dict[str, object]] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and name != "embed.weight":
            kind = name.split(".")[-2]
            groups.append({"params": [parameter], "split": splits.get(kind)})
        else:
            others.append(parameter)
    adam = torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    optimizers: list[torch.optim.Optimizer] = [
        Muon(groups, lr=matrix_lr, momentum=0.95, weight_decay=weight_decay),
        adam,
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers
