# mypy: allow-subclassing-any
# torch is not installed where the gates run, so its classes are Any to mypy.
"""Muon for matrices, AdamW for the rest, and the warm-up / stable / decay schedule.

Muon orthogonalises the momentum of each matrix with a quintic Newton-Schulz iteration
(Jordan et al. 2024; scaling by shape as in Liu et al., arXiv 2502.16982).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoglm.lite.model import LiteModel

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
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


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices of [count, rows, columns], approximately, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16)
    if is_tall:
        x = x.mT.contiguous()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of a fused projection that are one matrix."""

    parameter: Tensor
    rows: slice


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per matrix; matrices of one shape go through in one batch.

    Fused projections are treated part by part: a group's `split` gives the rows of its parts.
    """

    def __init__(
        self, groups: Iterable[dict[str, object]], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.orthogonalise: Callable[[Tensor], Tensor] = orthogonalise

    def step(self, closure: None = None) -> None:
        """Update every matrix once."""
        with torch.no_grad():
            for parts in self._parts_by_shape().values():
                self._update(parts)

    def _parts_by_shape(self) -> dict[tuple[int, int], list[tuple[_Part, dict[str, Any]]]]:
        found: dict[tuple[int, int], list[tuple[_Part, dict[str, Any]]]] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                start = 0
                for rows in group["split"] or [parameter.shape[0]]:
                    part = _Part(parameter, slice(start, start + rows))
                    shape = (min(rows, parameter.shape[1]), max(rows, parameter.shape[1]))
                    found.setdefault(shape, []).append((part, group))
                    start += rows
        return found

    def _update(self, parts: list[tuple[_Part, dict[str, Any]]]) -> None:
        wide = []
        for part, group in parts:
            direction = self._direction(part, group["momentum"])
            wide.append(direction.t() if direction.shape[0] > direction.shape[1] else direction)
        updates = self.orthogonalise(torch.stack(wide))
        for (part, group), update in zip(parts, updates, strict=True):
            target = part.parameter[part.rows]
            scale = _UPDATE_RMS * max(target.shape) ** 0.5
            target.mul_(1.0 - group["lr"] * group["weight_decay"])
            is_turned = target.shape[0] > target.shape[1]
            target.add_(update.t() if is_turned else update, alpha=-group["lr"] * scale)

    def _direction(self, part: _Part, momentum: float) -> Tensor:
        state = self.state[part.parameter]
        if not state:
            state["momentum"] = torch.zeros_like(part.parameter)
        grad, buffer = part.parameter.grad[part.rows], state["momentum"][part.rows]
        buffer.lerp_(grad, 1.0 - momentum)
        return torch.lerp(grad, buffer, momentum).to(torch.bfloat16)


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
