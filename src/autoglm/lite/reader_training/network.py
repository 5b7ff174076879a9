"""Fits a small multilayer perceptron and writes it as the reader's `Network` reads it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_RATE, _DECAY, _ROWS = 2e-3, 1e-3, 1024
_LIMIT = 5.0

Floats = npt.NDArray[np.float32]
# The loss of outputs [rows, num_outputs] for the rows of these numbers.
Loss = Callable[[Any, Any], Any]


def fit(
    name: str,
    features: Floats,
    loss: Loss,
    *,
    hidden: tuple[int, ...],
    epochs: int,
    seed: int,
) -> dict[str, npt.NDArray[Any]]:
    """AdamW with a linear decay over random rows."""
    torch.manual_seed(seed)
    mean, spread = features.mean(0), features.std(0) + 1e-3
    inputs = torch.tensor((features - mean) / spread).clamp(-_LIMIT, _LIMIT)
    widths = (features.shape[1], *hidden, 1)
    layers: list[Any] = []
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += ([torch.nn.ReLU()] if index else []) + [torch.nn.Linear(before, after)]
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=_DECAY)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = np.array_split(rng.permutation(len(inputs)), max(1, len(inputs) // _ROWS))
        for number, rows in enumerate(order):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - (epoch + number / len(order)) / epochs)
            chosen = torch.from_numpy(rows)
            value = loss(net(inputs[chosen]), chosen)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    found: dict[str, npt.NDArray[Any]] = {f"{name}.mean": mean, f"{name}.spread": spread}
    for index, layer in enumerate(layers[::2]):
        found[f"{name}.{index}.weight"] = layer.weight.detach().numpy()
        found[f"{name}.{index}.bias"] = layer.bias.detach().numpy()
    return found
