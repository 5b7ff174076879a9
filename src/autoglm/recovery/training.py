"""Distillation: the smaller model's next-token probabilities move to those of the whole one.

The loss (see lesson.py) is taken on random windows of a text, or on answers of a task. Zeros of
pruning stay zeros. The state is saved, so that interrupted training goes on where it was.
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

from autoglm.compression.recipe import Recovery
from autoglm.recovery.floats import FloatModel
from autoglm.recovery.lesson import Lesson
from autoglm.recovery.native import choose_lesson

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
    """How long, what the recipe says of it, and where the state is kept between runs."""

    steps: int
    options: Recovery
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
    options = training.options
    shape = (max(1, options.batch_tokens // windows.length), windows.length)
    lesson = choose_lesson(student, teacher, shape, options.label_share)
    parameters = lesson.parameters()
    masks = {name: torch.from_numpy(lesson.arranged(name, mask)) for name, mask in kept.items()}
    trained = list(parameters.values())
    optimizer = torch.optim.AdamW(
        trained, lr=options.rate, betas=_BETAS, weight_decay=0.0, fused=True
    )
    step = _restored(lesson, optimizer, training.state)
    while step < training.steps:
        progress(step)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * _factor(step, training.steps)
        optimizer.zero_grad(set_to_none=False)
        lesson.add_gradients(*_batch(windows, shape[0], (training.seed, step)))
        torch.nn.utils.clip_grad_norm_(trained, _CLIP)
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name].mul_(mask)
        lesson.refresh()
        step += 1
        if step % _SAVE_EVERY == 0 or step == training.steps:
            _save(lesson, optimizer, step, training.state)
    progress(step)
    return FloatModel(student.arch, lesson.tensors())


def _batch(windows: Windows, rows: int, seed: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of a step's windows, the same in every run, and targets: -1 does not count."""
    starts = np.random.default_rng(seed).choice(windows.starts, rows)
    places = starts[:, None] + np.arange(windows.length)
    ids = windows.ids[places]
    counted = windows.counted[places[:, 1:]]
    if not counted.any():  # questions too long for a window: better these than nothing
        counted[:] = True
    targets = np.full_like(ids, -1)
    targets[:, :-1] = np.where(counted, ids[:, 1:], -1)
    return torch.from_numpy(ids), torch.from_numpy(targets)


def _factor(step: int, steps: int) -> float:
    """Of the learning rate: up in a few steps, then down along half a cosine."""
    warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm_up * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _save(lesson: Lesson, optimizer: Any, step: int, path: Path) -> None:
    partial = path.with_suffix(".partial")
    state = {
        "way": lesson.name,
        "step": step,
        "parameters": {name: tensor.detach() for name, tensor in lesson.parameters().items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, partial)
    partial.replace(path)


def _restored(lesson: Lesson, optimizer: Any, path: Path) -> int:
    """The step to go on with; 0 where nothing is saved, or by another way than this machine's."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["way"] != lesson.name:
        return 0
    with torch.no_grad():
        for name, tensor in lesson.parameters().items():
            tensor.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    lesson.refresh()
    return int(state["step"])
