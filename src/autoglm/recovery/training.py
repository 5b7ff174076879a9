"""Distillation: the smaller model's next-token probabilities move to those of the whole one.

The loss is the Kullback-Leibler distance on random windows of a text, or on answers of a task.
Weights that pruning has set to zero stay zero. The state is saved, so that interrupted training
goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from autoglm.recovery.distance import distance
from autoglm.recovery.floats import FloatModel
from autoglm.recovery.network import Network

_BATCH_TOKENS = 2048
_BETAS = (0.9, 0.95)
_WARM_UP_STEPS = 20
_CLIP = 1.0
_SAVE_EVERY = 25


class Windows(NamedTuple):
    """Token ids to train on, which of them count, and where windows of `length` may begin."""

    ids: NDArray[np.int64]
    counted: NDArray[np.bool_]
    starts: NDArray[np.int64]
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long, the highest learning rate, and where the state is kept between runs."""

    steps: int
    rate: float
    state: Path
    seed: int = 0


def distil(
    student: FloatModel,
    teacher: FloatModel,
    windows: Windows,
    training: Training,
    *,
    kept: dict[str, NDArray[np.bool_]],
    progress: Callable[[int], None],
) -> FloatModel:
    """The student after training on windows of a text; `kept` are its masks by tensor."""
    network, whole = _network(student), _network(teacher)
    masks = {name: torch.from_numpy(mask) for name, mask in kept.items()}
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=training.rate, betas=_BETAS, weight_decay=0.0, fused=True
    )
    step = _restored(network, optimizer, training.state)
    while step < training.steps:
        progress(step)
        for group in optimizer.param_groups:
            group["lr"] = training.rate * _factor(step, training.steps)
        loss = _distance(network, whole, *_batch(windows, training.seed, step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()
        with torch.no_grad():
            for name, tensor in network.named().items():
                if name in masks:
                    tensor.mul_(masks[name])
        step += 1
        if step % _SAVE_EVERY == 0 or step == training.steps:
            _save(network, optimizer, step, training.state)
    progress(step)
    tensors = {name: tensor.detach().numpy() for name, tensor in network.named().items()}
    return FloatModel(student.arch, tensors)


def _network(model: FloatModel) -> Network:
    return Network(model.config, model.tensors)


def _batch(windows: Windows, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The windows of a step, the same in every run, and the positions before what counts."""
    rng = np.random.default_rng((seed, step))
    count = max(1, _BATCH_TOKENS // windows.length)
    starts = rng.choice(windows.starts, count)
    places = starts[:, None] + np.arange(windows.length)
    counted = np.zeros(places.shape, np.bool_)
    counted[:, :-1] = windows.counted[places[:, 1:]]
    if not counted.any():  # questions too long for a window: better these than nothing
        counted[:] = True
    return torch.from_numpy(windows.ids[places]), torch.from_numpy(counted)


def _distance(
    network: Network, whole: Network, ids: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            wanted = whole.hidden(ids)[counted]
        hidden = network.hidden(ids)[counted]
    return distance(hidden, network.head(), wanted, whole.head())


def _factor(step: int, steps: int) -> float:
    """Of the learning rate: up in a few steps, then down along half a cosine."""
    warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm_up * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _save(network: Network, optimizer: Any, step: int, path: Path) -> None:
    partial = path.with_suffix(".partial")
    state = {"step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, partial)
    partial.replace(path)


def _restored(network: Network, optimizer: Any, path: Path) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
