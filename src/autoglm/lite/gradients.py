"""Loss and gradients of a micro-batch: on the native kernels where they run, else in torch.

Both add to `grad` of the model's parameters and agree within bf16 rounding.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from autoglm.lite import model as lite_model
from autoglm.lite.model import ChunkedCrossEntropy, LiteConfig, LiteModel
from autoglm.lite.native_ops import load_kernels
from autoglm.lite.native_step import NativeStep, supports
from autoglm.lite.optim import orthogonalise


class GradientStep(Protocol):
    """What the training loop needs of a way to compute gradients."""

    @property
    def name(self) -> str:
        """Which way it is, for the log."""

    def add_gradients(
        self, ids: Tensor, targets: Tensor, *, scale: float, z_coefficient: float
    ) -> Tensor:
        """Add `scale` times the gradients of the summed loss; returns the sum."""

    def refresh(self) -> None:
        """Take over changed weights; call after every update."""

    def orthogonalise(self, matrices: Tensor) -> Tensor:
        """What Muon needs, see `optim.orthogonalise`."""


class TorchStep:
    """Autograd under bf16 autocast, compiled where that works."""

    def __init__(self, model: LiteModel, device: torch.device, *, use_compile: bool) -> None:
        self._model = model
        self._device = device
        self._hidden = model.hidden
        self._chunk_loss = lite_model.chunk_loss
        self.name = f"torch {device.type}"
        if use_compile:
            self._hidden = torch.compile(model.hidden, dynamic=False)
            self._chunk_loss = torch.compile(lite_model.chunk_loss, dynamic=False)
            self.name += " compiled"

    def loss(self, ids: Tensor, targets: Tensor, z_coefficient: float) -> Tensor:
        """Summed loss, differentiable."""
        ids = ids.to(self._device, non_blocking=True)
        targets = targets.to(self._device, non_blocking=True).flatten()
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            states = self._hidden(ids).flatten(0, 1).to(torch.bfloat16)
        total: Tensor = ChunkedCrossEntropy.apply(
            states, self._model.embed.weight, targets, z_coefficient, self._chunk_loss
        )
        return total

    def add_gradients(
        self, ids: Tensor, targets: Tensor, *, scale: float, z_coefficient: float
    ) -> Tensor:
        """See `GradientStep`."""
        total = self.loss(ids, targets, z_coefficient)
        (total * scale).backward()
        return total.detach()

    def refresh(self) -> None:
        """Nothing is kept beside the parameters."""

    def orthogonalise(self, matrices: Tensor) -> Tensor:
        """See `GradientStep`."""
        return orthogonalise(matrices)


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How gradients are computed: `kernels` may be native, torch or auto, which prefers native."""

    micro_rows: int
    row_tokens: int
    kernels: str = "auto"
    use_compile: bool = True


def choose_step(model: LiteModel, device: torch.device, options: StepOptions) -> GradientStep:
    """The fastest way that this machine and this shape support."""
    is_native = options.kernels != "torch" and device.type == "cpu" and supports(model.config)
    kernels = load_kernels() if is_native else None
    if kernels is not None:
        return NativeStep(model, options.micro_rows, options.row_tokens, kernels)
    if options.use_compile:
        compiled = TorchStep(model, device, use_compile=True)
        if _compiles(compiled, model, device, options):
            return compiled
    return TorchStep(model, device, use_compile=False)


def _compiles(
    step: TorchStep, model: LiteModel, device: torch.device, options: StepOptions
) -> bool:
    """Try one micro-batch: a machine without a C compiler can run torch but not compile."""
    ids = torch.zeros(options.micro_rows, options.row_tokens, dtype=torch.int64)
    try:
        step.add_gradients(ids, ids, scale=0.0, z_coefficient=0.0)
    except (RuntimeError, OSError):
        return False
    finally:
        for parameter in model.parameters():
            parameter.grad = None
    return True


def flops_per_token(config: LiteConfig, num_parameters: int, row_tokens: int) -> float:
    """Forward and backward, causal attention included."""
    return 6.0 * num_parameters + 6.0 * config.num_layers * config.hidden_size * row_tokens


_PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}


def peak_tflops(device: torch.device) -> float | None:
    """Dense bf16 peak of a known GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAK_TFLOPS.items() if key in name), None)
