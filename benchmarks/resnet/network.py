# mypy: allow-subclassing-any
# torch is not installed where the gates run, so its classes are Any to mypy.
"""A residual network of one block a stage (arXiv 1512.03385), of any number of channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

NUM_CLASSES = 10


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels of each stage: between its blocks, and inside them."""

    stream: tuple[int, ...]
    inner: tuple[int, ...]


class Block(nn.Module):
    """Two convolutions around which the input passes, through a third where shapes change."""

    def __init__(self, before: int, inner: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, inner, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.past = None
        if stride > 1:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.past = nn.Sequential(conv, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, before, height, width] to [batch, after, height / stride, width / stride]."""
        inner = F.relu(self.norm1(self.conv1(x)))
        past = x if self.past is None else self.past(x)
        return F.relu(self.norm2(self.conv2(inner)) + past)


class ResNet(nn.Module):
    """Stages at 16, 8 and 4 pixels; the input is [batch, 3, 32, 32]."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        first = widths.stream[0]
        self.widths = widths
        self.conv = nn.Conv2d(3, first, 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        befores = (first, *widths.stream[:-1])
        self.blocks = nn.ModuleList(
            Block(before, inner, after, 1 if stage == 0 else 2)
            for stage, (before, inner, after) in enumerate(
                zip(befores, widths.inner, widths.stream, strict=True)
            )
        )
        self.head = nn.Linear(widths.stream[-1], NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the classes."""
        x = F.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))
