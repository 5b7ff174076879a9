# mypy: allow-subclassing-any
# torch is not installed where the gates run, so its classes are Any to mypy.
"""Kullback-Leibler distance of two models' next tokens, from their last hidden states.

Logits are made for some positions at a time, together with what they send back: those of a whole
batch would be gigabytes to write and read again, which takes longer than the rest of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_PIECE = 512


def distance(
    hidden: Tensor,
    head: Tensor,
    wanted: Tensor,
    wanted_head: Tensor,
    *,
    targets: Tensor,
    label_share: float = 0.0,
) -> Tensor:
    """Mean over positions of KL(softmax(wanted @ wanted_head.T), softmax(hidden @ head.T)).

    A share of it may be the cross-entropy to `targets` [positions] instead. `hidden` and `wanted`
    are [positions, size], the heads [vocab, size]. Gradients reach `hidden` and `head`.
    """
    found: Tensor = _Distance.apply(hidden, head, wanted, wanted_head, targets, label_share)
    return found


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        wanted: Tensor,
        wanted_head: Tensor,
        targets: Tensor,
        label_share: float,
    ) -> Any:
        own, whole = head.bfloat16(), wanted_head.bfloat16()
        total = torch.zeros((), dtype=torch.float64)
        to_hidden = torch.empty(hidden.shape)
        to_head = torch.zeros(head.shape)
        for start in range(0, len(hidden), _PIECE):
            piece = slice(start, start + _PIECE)
            x, y, at = hidden[piece].bfloat16(), wanted[piece].bfloat16(), targets[piece, None]
            found = F.log_softmax((x @ own.T).float(), -1)
            target = F.log_softmax((y @ whole.T).float(), -1)
            likely = target.exp()
            total -= label_share * found.gather(1, at).sum().double()
            apart = torch.dot(likely.flatten(), target.sub_(found).flatten()).double()
            total += (1.0 - label_share) * apart
            slope = found.exp_().sub_(likely, alpha=1.0 - label_share)
            slope.scatter_add_(1, at, slope.new_full(at.shape, -label_share))
            slope = slope.bfloat16()
            to_hidden[piece] = (slope @ own).float()
            to_head += (slope.T @ x).float()
        ctx.save_for_backward(to_hidden.div_(len(hidden)), to_head.div_(len(hidden)))
        ctx.kind = hidden.dtype
        return (total / len(hidden)).float()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        [slope] = slopes
        to_hidden, to_head = ctx.saved_tensors
        return (to_hidden * slope).to(ctx.kind), to_head * slope, None, None, None, None
