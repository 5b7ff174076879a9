"""Training of the residual network: from random weights, or a smaller one after its whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from resnet.images import Images, inputs, varied

BATCH = 256
_TEST_BATCH = 500
_MOMENTUM = 0.9
_DECAY = 5e-4
_WARM_UP = 0.2
_SMOOTHING = 0.1
_TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Passes over the images and the largest learning rate, reached after a fifth of them."""

    epochs: int
    rate: float
    seed: int = 0


def train(
    network: nn.Module,
    images: Images,
    schedule: Schedule,
    *,
    teacher: nn.Module | None = None,
    after_step: Callable[[float], None] = lambda done: None,
) -> None:
    """Train in place. With a teacher half of the loss is the distance from its answers.

    `after_step` gets the part of the steps that is done, and may change weights.
    """
    rng = np.random.default_rng(schedule.seed)
    num_steps = schedule.epochs * (len(images.labels) // BATCH)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=schedule.rate,
        momentum=_MOMENTUM,
        weight_decay=_DECAY,
        nesterov=True,
    )
    network.train()
    step = 0
    for epoch in range(schedule.epochs):
        total = 0.0
        for pixels, labels in varied(images, BATCH, rng):
            done = step / num_steps
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate * min(done / _WARM_UP, (1 - done) / (1 - _WARM_UP))
            loss = _loss(network, teacher, pixels, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            after_step(step / num_steps)
            total += float(loss.detach())
        mean = total * schedule.epochs / num_steps
        print(
            f"epoch {epoch + 1} of {schedule.epochs}: loss {mean:.4f}", file=sys.stderr, flush=True
        )
    network.eval()


def _loss(
    network: nn.Module, teacher: nn.Module | None, pixels: np.ndarray, labels: np.ndarray
) -> torch.Tensor:
    x = torch.from_numpy(pixels).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x)
    logits = logits.float()
    loss = F.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=_SMOOTHING)
    if teacher is None:
        return loss
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = teacher(x)
    distance = F.kl_div(
        F.log_softmax(logits / _TEMPERATURE, 1),
        F.log_softmax(wanted.float() / _TEMPERATURE, 1),
        log_target=True,
        reduction="batchmean",
    )
    return (loss + _TEMPERATURE**2 * distance) / 2


def accuracy(network: nn.Module, images: Images) -> float:
    """The share of images whose class gets the largest logit, in float32."""
    network.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(images.labels), _TEST_BATCH):
            logits = network(torch.from_numpy(inputs(images.pixels[start : start + _TEST_BATCH])))
            labels = torch.from_numpy(images.labels[start : start + _TEST_BATCH])
            right += int((logits.argmax(1) == labels).sum())
    return right / len(images.labels)
