"""Top-1 agreement and KL against transformers, as `make parity` measures them (claim R47)."""

import numpy as np
import pytest
from tools.parity import Agreement, agreement, merge


def test_bundle_agrees_with_the_reference_of_its_weights(name, weights, make_case, start):
    case = make_case(name)
    logits = start(case.bundle(weights))().logits(case.ids)
    found = agreement(logits, case.dequantised_logits(weights))
    assert found.num_positions == len(case.ids)
    assert found.is_close, found


def test_agreement_counts_equal_maxima_and_the_divergence() -> None:
    reference = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], np.float32))
    found = np.log(np.array([[0.5, 0.3, 0.2], [0.4, 0.5, 0.1]], np.float32)) + 7
    kl = 0.1 * np.log(0.1 / 0.4) + 0.1 * np.log(0.1 / 0.5) + 0.8 * np.log(0.8 / 0.1)
    result = agreement(found, reference)
    assert (result.num_positions, result.top1) == (2, 0.5)
    assert result.mean_kl == pytest.approx(kl / 2, rel=1e-6)
    assert not result.is_close


def test_noise_of_a_percent_is_not_close(make_case) -> None:
    """The control: the limits see an error that the tolerance of a float32 sum would not pass."""
    logits = make_case("glm4").logits
    noise = np.random.default_rng(0).normal(0, 0.03 * np.abs(logits).max(), logits.shape)
    assert not agreement((logits + noise).astype(np.float32), logits).is_close


def test_merging_weighs_by_positions() -> None:
    merged = merge([Agreement(1, 1.0, 0.0), Agreement(3, 0.5, 0.4)])
    assert (merged.num_positions, merged.top1) == (4, 0.625)
    assert merged.mean_kl == pytest.approx(0.3)
