"""Loss and gradients of a `LiteModel` on the AMX kernels, written out instead of traced.

Activations live in buffers allocated once, weights are packed once per update, and every step
between two matrix products is one pass over memory. Equal to autograd within bf16 rounding.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autoglm.errors import InvalidRequestError
from autoglm.lite.model import Block, LiteConfig, LiteModel
from autoglm.lite.optim import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS

_HEAD_DIM = 64
_MULTIPLE = 32
_HEAD_ROWS = 2048
_NORM_PARTIALS = 16


def supports(config: LiteConfig) -> bool:
    """True if the kernels' tile sizes divide the shape."""
    sizes = (config.hidden_size, config.intermediate_size, config.vocab_size)
    return (
        config.head_dim == _HEAD_DIM
        and config.num_heads % config.num_kv_heads == 0
        and all(size % _MULTIPLE == 0 for size in sizes)
    )


def _low(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


@dataclass(slots=True)
class _Packed:
    """A weight [outputs, inputs] as the right operand of x w^T and of dy w."""

    forward: Tensor
    backward: Tensor


@dataclass(slots=True)
class _Saved:
    """What the backward pass of one layer needs of its forward pass."""

    x: Tensor
    x_scales: Tensor
    qkv: Tensor
    log_sums: Tensor
    mixed: Tensor
    middle: Tensor
    middle_scales: Tensor
    gate_up: Tensor


@dataclass(slots=True)
class _Counted:
    """The positions that carry loss, and their targets filled up to whole blocks by -1."""

    at: Tensor
    targets: Tensor

    def pick(self, values: Tensor) -> Tensor:
        """Their rows, filled up by zeros."""
        return F.pad(values[self.at], (0, 0, 0, len(self.targets) - len(self.at)))


def _counted(targets: Tensor) -> _Counted:
    flat = targets.flatten()
    at = (flat >= 0).nonzero().squeeze(1)
    return _Counted(at, F.pad(flat[at], (0, -len(at) % _MULTIPLE), value=-1))


class NativeStep:
    """Adds the gradients of micro-batches of one shape to `grad` of the model's parameters.

    A step that does not `learn` gives states and logits alone, and takes no memory for gradients.
    """

    name = "native"

    def __init__(
        self,
        model: LiteModel,
        rows: int,
        row_tokens: int,
        kernels: ctypes.CDLL,
        *,
        learns: bool = True,
    ) -> None:
        config = model.config
        if not supports(config) or row_tokens % _MULTIPLE:
            message = (
                f"hidden {config.hidden_size}, intermediate {config.intermediate_size}, vocabulary "
                f"{config.vocab_size}, row of {row_tokens} tokens: the kernels need multiples of "
                f"{_MULTIPLE} and heads of {_HEAD_DIM}"
            )
            raise InvalidRequestError(message)
        self._model = model
        self._config = config
        self._kernels = kernels
        self._learns = learns
        self._rows = rows
        self._row_tokens = row_tokens
        self._blocks: list[Block] = list(model.blocks)
        self._weights: dict[int, _Packed] = {}
        self._table = _low(*model.embed.weight.shape)
        self._cos = model.cos[:row_tokens].contiguous()
        self._sin = model.sin[:row_tokens].contiguous()
        self._allocate()
        self.refresh()

    def _allocate(self) -> None:
        config, count = self._config, self._rows * self._row_tokens
        hidden, inner = config.hidden_size, config.intermediate_size
        qkv = (config.num_heads + 2 * config.num_kv_heads) * _HEAD_DIM
        self._saved = [
            _Saved(
                x=_low(count, hidden),
                x_scales=torch.empty(count),
                qkv=_low(count, qkv),
                log_sums=torch.empty(count * config.num_heads),
                mixed=_low(count, config.num_heads * _HEAD_DIM),
                middle=_low(count, hidden),
                middle_scales=torch.empty(count),
                gate_up=_low(count, 2 * inner),
            )
            for _ in self._blocks
        ]
        self._last = _low(count, hidden)
        self._last_scales = torch.empty(count)
        self._normed = _low(count, hidden)
        self._inner = _low(count, inner)
        self._grad = _low(count, hidden)
        self._grad_normed = _low(count, hidden)
        self._grad_mixed = _low(count, config.num_heads * _HEAD_DIM)
        self._grad_qkv = _low(count, qkv)
        self._right = _low(count * max(hidden, inner, config.num_heads * _HEAD_DIM))
        self._logits = _low(_HEAD_ROWS, config.vocab_size)
        self._partials = torch.empty(_NORM_PARTIALS, hidden)
        for parameter in self._model.parameters():
            if self._learns and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _call(self, name: str, *arguments: Any) -> None:
        plain = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
        getattr(self._kernels, f"lite_{name}")(*plain)

    def refresh(self) -> None:
        """Take over changed weights; call after every update."""
        with torch.no_grad():
            self._table.copy_(self._model.embed.weight)
            self._pack(self._model.embed.weight, self._table)
            for block in self._blocks:
                for layer in (block.qkv, block.o, block.gate_up, block.down):
                    self._pack(layer.weight, layer.weight.to(torch.bfloat16))

    def _pack(self, weight: Tensor, low: Tensor) -> None:
        outputs, inputs = weight.shape
        if id(weight) not in self._weights:
            backward = _low(weight.numel() if self._learns else 0)
            self._weights[id(weight)] = _Packed(_low(weight.numel()), backward)
        packed = self._weights[id(weight)]
        self._call("pack_right", low, inputs, outputs, 1, packed.forward)
        if self._learns:
            self._call("pack_right", low, outputs, inputs, 0, packed.backward)

    def _apply(
        self, x: Tensor, weight: Tensor, out: Tensor, residual: Tensor | None = None
    ) -> None:
        outputs, inputs = weight.shape
        packed = self._weights[id(weight)].forward
        self._call(
            "multiply", x.numel() // inputs, outputs, inputs, x, 0, packed, None, out, residual
        )

    def _apply_backward(self, grad: Tensor, weight: Tensor, out: Tensor) -> None:
        outputs, inputs = weight.shape
        packed = self._weights[id(weight)].backward
        self._call(
            "multiply", grad.numel() // outputs, inputs, outputs, grad, 0, packed, None, out, None
        )

    def _add_weight_grad(self, grad: Tensor, x: Tensor, weight: Tensor) -> None:
        outputs, inputs = weight.shape
        count = x.numel() // inputs
        self._call("pack_right", x, count, inputs, 0, self._right)
        self._call(
            "multiply", outputs, inputs, count, grad, 1, self._right, weight.grad, None, None
        )

    def _norm(self, x: Tensor, gain: Tensor, out: Tensor, scales: Tensor) -> None:
        rows, size = x.shape
        self._call("norm", x, gain, rows, size, self._config.rms_norm_eps, out, scales)

    def _norm_backward(self, x: Tensor, grad: Tensor, gain: Tensor, scales: Tensor) -> None:
        rows, size = x.shape
        self._call(
            "norm_backward",
            *(x, grad, gain, scales, rows, size, self._partials, self._grad, gain.grad),
        )

    def _attention_shape(self) -> tuple[int, ...]:
        config = self._config
        return (
            self._rows,
            self._row_tokens,
            config.num_heads,
            config.num_kv_heads,
            config.rotary_dim,
        )

    def add_gradients(
        self, ids: Tensor, targets: Tensor, *, scale: float, z_coefficient: float
    ) -> Tensor:
        """Add `scale` times the gradients of the summed loss; returns the sum.

        ids and targets are [rows, row_tokens]; a target of -1 carries no loss.
        """
        flat = self._forward(ids)
        counted = _counted(targets)

        def to_gradient(part: slice, logits: Tensor, losses: Tensor) -> None:
            wanted = counted.targets[part]
            self._call("entropy", logits, wanted, *logits.shape, z_coefficient, scale, losses)

        total = self._head(counted, to_gradient)
        self._backward(flat)
        return total

    def add_distance_gradients(
        self,
        ids: Tensor,
        targets: Tensor,
        other: "NativeStep",
        *,
        scale: float,
        label_share: float,
    ) -> Tensor:
        """The same for a summed loss of two parts; returns the sum.

        They are the Kullback-Leibler distance to the next tokens of the model of `other`, a step of
        the same shape, and by `label_share` the cross-entropy to the targets.
        """
        wanted = other.states(ids)
        flat = self._forward(ids)
        counted = _counted(targets)
        goals = counted.pick(wanted)

        def to_gradient(part: slice, logits: Tensor, losses: Tensor) -> None:
            at_target = counted.targets[part]
            goal = other.logits(goals[part])
            shares = (*logits.shape, label_share, scale)
            self._call("distance", logits, goal, at_target, *shares, losses)

        total = self._head(counted, to_gradient)
        self._backward(flat)
        return total

    def states(self, ids: Tensor) -> Tensor:
        """Normed last states [tokens, hidden] in bf16, until the next call."""
        self._forward(ids)
        self._norm(self._last, self._model.norm.weight, self._normed, self._last_scales)
        return self._normed

    def logits(self, states: Tensor) -> Tensor:
        """[rows, vocab] of normed states, whole blocks of rows, until the next call."""
        out = self._logits[: len(states)]
        self._apply(states, self._model.embed.weight, out)
        return out

    def _forward(self, ids: Tensor) -> Tensor:
        """All layers; returns the ids as one row."""
        flat = ids.flatten().contiguous()
        first = self._saved[0].x
        self._call("embed", self._table, flat, flat.numel(), self._config.hidden_size, first)
        following = [*(saved.x for saved in self._saved[1:]), self._last]
        for block, saved, out in zip(self._blocks, self._saved, following, strict=True):
            self._block(block, saved, out)
        return flat

    def _backward(self, flat: Tensor) -> None:
        """From the gradient of the last states to that of the embedding."""
        for block, saved in zip(reversed(self._blocks), reversed(self._saved), strict=True):
            self._block_backward(block, saved)
        size, table_grad = self._config.hidden_size, self._model.embed.weight.grad
        self._call("embed_backward", self._grad, flat, flat.numel(), size, table_grad)

    def _block(self, block: Block, saved: _Saved, out: Tensor) -> None:
        self._norm(saved.x, block.input_norm.weight, self._normed, saved.x_scales)
        self._apply(self._normed, block.qkv.weight, saved.qkv)
        self._call(
            "attention",
            *(saved.qkv, self._cos, self._sin, *self._attention_shape()),
            *(saved.mixed, saved.log_sums),
        )
        self._apply(saved.mixed, block.o.weight, saved.middle, saved.x)
        self._norm(saved.middle, block.mlp_norm.weight, self._normed, saved.middle_scales)
        self._apply(self._normed, block.gate_up.weight, saved.gate_up)
        rows, inner = self._inner.shape
        self._call("swiglu", saved.gate_up, rows, inner, self._inner)
        self._apply(self._inner, block.down.weight, out, saved.middle)

    def _block_backward(self, block: Block, saved: _Saved) -> None:
        rows, inner = self._inner.shape
        self._apply_backward(self._grad, block.down.weight, self._inner)
        self._call("swiglu_backward", saved.gate_up, self._inner, rows, inner)
        self._add_weight_grad(self._grad, self._inner, block.down.weight)
        self._norm(saved.middle, block.mlp_norm.weight, self._normed, saved.middle_scales)
        self._add_weight_grad(saved.gate_up, self._normed, block.gate_up.weight)
        self._apply_backward(saved.gate_up, block.gate_up.weight, self._grad_normed)
        self._norm_backward(
            saved.middle, self._grad_normed, block.mlp_norm.weight, saved.middle_scales
        )
        self._apply_backward(self._grad, block.o.weight, self._grad_mixed)
        self._add_weight_grad(self._grad, saved.mixed, block.o.weight)
        self._call(
            "attention_backward",
            *(saved.qkv, self._cos, self._sin, *self._attention_shape()),
            *(saved.mixed, saved.log_sums, self._grad_mixed, self._grad_qkv),
        )
        self._norm(saved.x, block.input_norm.weight, self._normed, saved.x_scales)
        self._add_weight_grad(self._grad_qkv, self._normed, block.qkv.weight)
        self._apply_backward(self._grad_qkv, block.qkv.weight, self._grad_normed)
        self._norm_backward(saved.x, self._grad_normed, block.input_norm.weight, saved.x_scales)

    def _head(
        self, counted: _Counted, to_gradient: Callable[[slice, Tensor, Tensor], None]
    ) -> Tensor:
        """Loss of the counted rows; leaves the gradient of the last states in `_grad`.

        `to_gradient` turns the logits of a part of them into their gradient and writes the losses.
        """
        gain, table = self._model.norm.weight, self._model.embed.weight
        self._norm(self._last, gain, self._normed, self._last_scales)
        states = counted.pick(self._normed)
        grads = torch.empty_like(states)
        losses = torch.empty(len(states))
        for start in range(0, len(states), _HEAD_ROWS):
            part = slice(start, start + _HEAD_ROWS)
            logits = self.logits(states[part])
            to_gradient(part, logits, losses[part])
            self._apply_backward(logits, table, grads[part])
            self._add_weight_grad(logits, states[part], table)
        self._grad_normed.zero_()
        self._grad_normed[counted.at] = grads[: len(counted.at)]
        self._grad.zero_()
        self._norm_backward(self._last, self._grad_normed, gain, self._last_scales)
        return losses.sum()

    def orthogonalise(self, matrices: Tensor) -> Tensor:
        """As `optim.orthogonalise`, for wide matrices [count, rows, columns]."""
        return torch.stack([self._orthogonalise(matrix) for matrix in matrices])

    def _orthogonalise(self, matrix: Tensor) -> Tensor:
        a, b, c = NEWTON_SCHULZ
        n, k = matrix.shape
        x = (matrix.float() / (matrix.float().norm() + 1e-7)).to(torch.bfloat16)
        following, right = torch.empty_like(x), _low(n * k)
        gram, square, gram_right = _low(n, n), _low(n, n), _low(n * n)
        for _ in range(NEWTON_SCHULZ_STEPS):
            self._call("pack_right", x, k, n, 1, right)
            self._call("multiply", n, n, k, x, 0, right, None, gram, None)
            self._call("pack_right", gram, n, n, 0, gram_right)
            self._call("multiply", n, n, n, gram, 0, gram_right, None, square, None)
            polynomial = c * square.float() + b * gram.float()
            polynomial.diagonal().add_(a)
            self._call("pack_right", x, n, k, 0, right)
            polynomial = polynomial.to(torch.bfloat16)
            self._call("multiply", n, k, n, polynomial, 0, right, None, following, None)
            x, following = following, x
        return x
