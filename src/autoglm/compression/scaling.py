"""Scales that move range between activations and weights; a norm's gain takes their inverse.

AWQ (arXiv 2306.00978) searches the power of mean activations that costs least after rounding;
SmoothQuant (arXiv 2211.10438) balances the largest activations against the largest weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autoglm.compression.codes import Floats

_STEPS = 20
_MAX_ROWS = 512
_SMALLEST = 1e-5


def awq_scales(weights: Floats, inputs: Floats, rounded: Callable[[Floats], Floats]) -> Floats:
    """Column scales s for which rounded(W s) / s errs least on the inputs [num_tokens, cols]."""
    activity = np.abs(inputs).mean(axis=0)
    sample = inputs[:: max(1, len(inputs) // _MAX_ROWS)]
    best, best_error = np.ones(weights.shape[1], np.float32), np.inf
    for step in range(_STEPS):
        scales = _centred(np.maximum(activity, _SMALLEST) ** np.float32(step / _STEPS))
        difference = rounded(weights * scales) / scales - weights
        error = float(np.square(sample @ difference.T).sum(dtype=np.float64))
        if error < best_error:
            best, best_error = scales, error
    return best


def smoothquant_scales(weights: Floats, inputs: Floats, strength: float) -> Floats:
    """Column scales max|x|^strength / max|w|^(1 - strength), by which inputs will be divided."""
    largest_input = np.maximum(np.abs(inputs).max(axis=0), _SMALLEST)
    largest_weight = np.maximum(np.abs(weights).max(axis=0), _SMALLEST)
    scales = largest_input ** np.float32(strength)
    return _centred(scales / largest_weight ** np.float32(1.0 - strength))


def _centred(scales: Floats) -> Floats:
    """With a geometric mean of the extremes of one: gains stay in their range."""
    centre = np.sqrt(scales.max() * scales.min())
    centred: Floats = (scales / centre).astype(np.float32)
    return centred
