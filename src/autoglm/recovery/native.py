"""Lessons on the AMX kernels that train LITE, four times as fast as torch on two cores.

They take models like it: heads of 64, neighbouring pairs rotated, one table for both ends, no
biases, no norms but the usual three.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoglm.compression.codes import Floats
from autoglm.lite.model import LiteConfig, LiteModel
from autoglm.lite.native_ops import load_kernels
from autoglm.lite.native_step import NativeStep, supports
from autoglm.modelfile.layout import EMBEDDING, FINAL_NORM, ROW_BLOCK
from autoglm.recovery.floats import FloatModel
from autoglm.recovery.lesson import Lesson, TorchLesson

_TOKENS_MULTIPLE = 32
_GATE_UP = "mlp.gate_up"
_OF_A_LAYER = {
    "input_norm.weight": "input_norm.weight",
    "attn.qkv": "qkv.weight",
    "attn.o": "o.weight",
    "mlp.norm.weight": "mlp_norm.weight",
    _GATE_UP: "gate_up.weight",
    "mlp.down": "down.weight",
}


class NativeLesson:
    """Batches of one shape; gate and up lie one below the other instead of alternating."""

    name = "native"

    def __init__(
        self,
        models: tuple[LiteModel, LiteModel],
        shape: tuple[int, int],
        label_share: float,
        kernels: ctypes.CDLL,
    ) -> None:
        """Models that learn and teach, rows and tokens of a batch."""
        self._student = models[0]
        self._own = NativeStep(models[0], *shape, kernels)
        self._whole = NativeStep(models[1], *shape, kernels, learns=False)
        self._label_share = label_share

    def parameters(self) -> dict[str, Tensor]:
        """See `Lesson`."""
        own = dict(self._student.named_parameters())
        return {name: own[stored] for name, stored in _names(self._student.config).items()}

    def arranged(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """See `Lesson`."""
        return _apart(name, values)

    def add_gradients(self, ids: Tensor, targets: Tensor) -> float:
        """See `Lesson`."""
        scale = 1.0 / max(1, int((targets >= 0).sum()))
        total = self._own.add_distance_gradients(
            ids, targets, self._whole, scale=scale, label_share=self._label_share
        )
        return float(total) * scale

    def refresh(self) -> None:
        """See `Lesson`."""
        self._own.refresh()

    def tensors(self) -> dict[str, Floats]:
        """See `Lesson`."""
        found = {name: tensor.detach().numpy() for name, tensor in self.parameters().items()}
        return {name: _alternating(name, values) for name, values in found.items()}


def choose_lesson(
    student: FloatModel, teacher: FloatModel, shape: tuple[int, int], label_share: float
) -> Lesson:
    """Native where the models, the batch [rows, tokens] and this machine allow it, else torch."""
    is_native = shape[1] % _TOKENS_MULTIPLE == 0 and _fits(student) and _fits(teacher)
    kernels = load_kernels() if is_native else None
    if kernels is None:
        return TorchLesson(student, teacher, label_share)
    return NativeLesson((_model(student), _model(teacher)), shape, label_share, kernels)


def _lite_config(model: FloatModel) -> LiteConfig:
    config = model.config
    return LiteConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        rotary_dim=config.rotary_dim,
        rms_norm_eps=config.rms_norm_eps,
        max_position=config.max_position,
    )


def _fits(model: FloatModel) -> bool:
    config = _lite_config(model)
    is_rotated_alike = model.config.rope_interleaved and model.config.rotary_dim > 0
    return (
        is_rotated_alike
        and model.config.tie_word_embeddings
        and model.tensors.keys() == _names(config).keys()
        and supports(config)
    )


def _names(config: LiteConfig) -> dict[str, str]:
    """The parameters of a LiteModel by the names of the bundle's tensors."""
    names = {EMBEDDING: "embed.weight", FINAL_NORM: "norm.weight"}
    for layer in range(config.num_layers):
        for ours, theirs in _OF_A_LAYER.items():
            names[f"model.layers.{layer}.{ours}"] = f"blocks.{layer}.{theirs}"
    return names


def _model(model: FloatModel) -> LiteModel:
    config = _lite_config(model)
    made = LiteModel(config)
    stored = {
        theirs: torch.from_numpy(_apart(ours, model.tensors[ours]))
        for ours, theirs in _names(config).items()
    }
    made.load_state_dict(stored)
    angles = torch.outer(
        torch.arange(config.max_position).float(),
        torch.tensor(model.config.inv_freq, dtype=torch.float32),
    )
    made.cos, made.sin = (part * model.config.rope_scale for part in (angles.cos(), angles.sin()))
    return made


def _apart(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Blocks of gate and up rows that alternate become all of gate, then all of up."""
    if not name.endswith(_GATE_UP):
        return values
    blocks = values.reshape(-1, 2, ROW_BLOCK, values.shape[1])
    return np.ascontiguousarray(blocks.swapaxes(0, 1)).reshape(values.shape)


def _alternating(name: str, values: Floats) -> Floats:
    """The reverse."""
    if not name.endswith(_GATE_UP):
        return values
    blocks = values.reshape(2, -1, ROW_BLOCK, values.shape[1])
    return np.ascontiguousarray(blocks.swapaxes(0, 1)).reshape(values.shape)
