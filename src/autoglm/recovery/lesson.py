"""Gradients of a model that learns from a whole one: in torch for every model, natively for some.

The loss is the mean, over the positions that count, of the Kullback-Leibler distance to the whole
model's next token and, by `label_share`, of the cross-entropy to the text's.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from autoglm.compression.codes import Floats
from autoglm.recovery.distance import distance
from autoglm.recovery.floats import FloatModel
from autoglm.recovery.network import Network


class Lesson(Protocol):
    """What the training loop needs. Parameters may lie in another order than in the bundle."""

    @property
    def name(self) -> str:
        """Which way it is: states saved by one way are of no use to another."""

    def parameters(self) -> dict[str, Tensor]:
        """What is trained, by the names of the bundle's tensors."""

    def arranged(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A tensor of the bundle in the order of the parameter."""

    def add_gradients(self, ids: Tensor, targets: Tensor) -> float:
        """Add the loss's gradients to the parameters' `grad`; returns the loss.

        ids and targets are [rows, tokens]; a target of -1 does not count.
        """

    def refresh(self) -> None:
        """Take over changed parameters; call after every update."""

    def tensors(self) -> dict[str, Floats]:
        """The parameters as the bundle has them."""


class TorchLesson:
    """Autograd under bf16 autocast."""

    name = "torch"

    def __init__(self, student: FloatModel, teacher: FloatModel, label_share: float) -> None:
        self._network = Network(student.config, student.tensors)
        self._whole = Network(teacher.config, teacher.tensors)
        self._label_share = label_share

    def parameters(self) -> dict[str, Tensor]:
        """See `Lesson`."""
        return self._network.named()

    def arranged(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """See `Lesson`."""
        return values

    def add_gradients(self, ids: Tensor, targets: Tensor) -> float:
        """See `Lesson`."""
        counted = targets >= 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                wanted = self._whole.hidden(ids)[counted]
            hidden = self._network.hidden(ids)[counted]
        loss = distance(
            hidden,
            self._network.head(),
            wanted,
            self._whole.head(),
            targets=targets[counted],
            label_share=self._label_share,
        )
        loss.backward()
        return float(loss.detach())

    def refresh(self) -> None:
        """Nothing is kept beside the parameters."""

    def tensors(self) -> dict[str, Floats]:
        """See `Lesson`."""
        return {name: tensor.detach().numpy() for name, tensor in self.parameters().items()}
