"""Scales that move range between activations and weights; a norm's gain takes their inverse.

AWQ (arXiv 2306.00978) searches the power of mean activations that costs least after rounding;
SmoothQuant (arXiv 2211.10438) balances the largest activations against the largest weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autoglm.compression.codes import Floats

STEPS = 20
_MAX_ROWS = 4096
_SMALLEST = 1e-5


def awq_scales(
    weights: Floats, activity: Floats, moments: Floats, rounded: Callable[[Floats], Floats]
) -> Floats:
    """Column scales s, a power of `activity`, for which rounded(W s) / s errs least.

    What counts is the error at the outputs of inputs x with `moments` = sum of x^T x. Of a tall
    matrix some rows are looked at, evenly spread.
    """
    sample = weights[:: -(-len(weights) // _MAX_ROWS)]
    best, lowest = np.ones(weights.shape[1], np.float32), np.inf
    for step in range(STEPS):
        scales = _centred(np.maximum(activity, _SMALLEST) ** np.float32(step / STEPS))
        difference = rounded(sample * scales) / scales - sample
        error = float(np.vdot(difference @ moments, difference))
        if error < lowest:
            best, lowest = scales, error
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
