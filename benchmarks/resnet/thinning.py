"""Fewer weights for a trained network: zeros in exact numbers, or whole channels less."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoglm.compression.pruning import Pruning, kept_weights
from resnet.images import Images, inputs
from resnet.network import Block, ResNet, Widths

_MEASURED_IMAGES = 512
# The share of zeros grows until so much of the recovery is over.
_FIXED_AT = 0.5

Channels = NDArray[np.intp]


class Zeros:
    """Keeps a growing share of all weights at zero, the smallest for their layer."""

    def __init__(self, network: nn.Module, sparsity: float, *, every: int) -> None:
        self._weights = [weights for weights in network.parameters() if weights.dim() > 1]
        self._sparsity = sparsity
        self._every = every
        self._num_steps = 0
        self._is_final = False
        self._masks: list[Tensor] = []

    def __call__(self, done: float) -> None:
        """After a step of the recovery, of which this part is done."""
        if self._num_steps % self._every == 0 and not self._is_final:
            grown = min(1.0, done / _FIXED_AT)
            self._choose(self._sparsity * (1 - (1 - grown) ** 3))
            self._is_final = grown == 1.0
        self._num_steps += 1
        with torch.no_grad():
            for weights, mask in zip(self._weights, self._masks, strict=True):
                weights.mul_(mask)

    def _choose(self, sparsity: float) -> None:
        scores = [
            weights.detach().abs().flatten() / weights.detach().square().mean().sqrt()
            for weights in self._weights
        ]
        pruning = Pruning(method="magnitude", pattern="unstructured", sparsity=sparsity)
        kept = torch.from_numpy(kept_weights(torch.cat(scores).numpy()[None], pruning)[0])
        pieces = kept.split([weights.numel() for weights in self._weights])
        self._masks = [
            piece.view(weights.shape).float()
            for piece, weights in zip(pieces, self._weights, strict=True)
        ]


def num_zeros(network: nn.Module) -> tuple[int, int]:
    """Weights of convolutions and the head that are zero, and all of them."""
    weights = [weights for weights in network.parameters() if weights.dim() > 1]
    return sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)


def thinned(network: ResNet, widths: Widths, images: Images) -> ResNet:
    """A network of these widths with the channels that put most energy through what reads them."""
    energies = _energies(network, images)
    smaller = ResNet(widths)
    kept = [_strongest(energies.stream[0], widths.stream[0])]
    for stage in range(1, len(widths.stream)):
        kept.append(_strongest(energies.stream[stage], widths.stream[stage]))
    _copy(network.conv, smaller.conv, None, kept[0])
    _copy_norm(network.norm, smaller.norm, kept[0])
    befores = (kept[0], *kept[:-1])
    for stage, (whole, block) in enumerate(zip(network.blocks, smaller.blocks, strict=True)):
        inner = _strongest(energies.inner[stage], widths.inner[stage])
        _copy_block(whole, block, befores[stage], inner, kept[stage])
    _copy(network.head, smaller.head, kept[-1], None)
    with torch.no_grad():
        smaller.head.bias.copy_(network.head.bias)
    smaller.eval()
    return smaller


class _Energies:
    """Sums over images of what each channel puts through the weights that read it."""

    def __init__(self, num_stages: int) -> None:
        self.stream: list[Tensor] = [torch.zeros(1)] * num_stages
        self.inner: list[Tensor] = [torch.zeros(1)] * num_stages


def _energies(network: ResNet, images: Images) -> _Energies:
    energies = _Energies(len(network.blocks))
    x = torch.from_numpy(inputs(images.pixels[:_MEASURED_IMAGES]))
    with torch.no_grad():
        x = torch.relu(network.norm(network.conv(x)))
        for stage, block in enumerate(network.blocks):
            inner = torch.relu(block.norm1(block.conv1(x)))
            energies.inner[stage] = _read(inner, block.conv2.weight)
            before = max(0, stage - 1)
            energies.stream[before] = energies.stream[before] + _read(x, block.conv1.weight)
            x = block(x)
        last = _read(x.mean((2, 3))[:, :, None, None], network.head.weight[:, :, None, None])
        energies.stream[-1] = energies.stream[-1] + last
    return energies


def _read(x: Tensor, weights: Tensor) -> Tensor:
    return x.square().mean((0, 2, 3)) * weights.square().sum((0, 2, 3))


def _strongest(energy: Tensor, count: int) -> Channels:
    return np.sort(np.argsort(-energy.numpy(), kind="stable")[:count])


def _copy(
    whole: nn.Module, part: nn.Module, read: Channels | None, written: Channels | None
) -> None:
    weights = whole.weight
    if written is not None:
        weights = weights[written]
    if read is not None:
        weights = weights[:, read]
    with torch.no_grad():
        part.weight.copy_(weights)


def _copy_norm(whole: nn.Module, part: nn.Module, kept: Channels) -> None:
    state = {
        name: values if values.dim() == 0 else values[kept]
        for name, values in whole.state_dict().items()
    }
    part.load_state_dict(state)


def _copy_block(
    whole: Block, part: Block, before: Channels, inner: Channels, after: Channels
) -> None:
    _copy(whole.conv1, part.conv1, before, inner)
    _copy_norm(whole.norm1, part.norm1, inner)
    _copy(whole.conv2, part.conv2, inner, after)
    _copy_norm(whole.norm2, part.norm2, after)
    if whole.past is not None and part.past is not None:
        _copy(whole.past[0], part.past[0], before, after)
        _copy_norm(whole.past[1], part.past[1], after)
