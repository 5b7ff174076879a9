"""The same bits whatever the threads, the chunks, the repeat or the prefix cache (claim R45)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.native_api.test_forward import FAMILIES
from tests.native_api.tiny_model import TinyModel, build

from autoglm import _core

IDS = np.random.default_rng(2).integers(0, 67, 90).tolist()
WEIGHTS = ("fp32", "bf16", "int8", "int4", "int3")
NUM_REPEATS = 100
# Every type of cache and both widths of activations meet every type of weights.
PLANS: list[dict[str, int | str]] = [
    {},
    {"kv_dtype": "fp32"},
    {"kv_dtype": "int8"},
    {"kv_dtype": "int8", "activation_bits": 8},
]


def model_of(path: Path, family: str, weights: str) -> TinyModel:
    return build(path / "model", weights=weights, **FAMILIES[family])


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_repeats_and_threads_change_no_bit(tmp_path: Path, family: str, weights: str) -> None:
    model = model_of(tmp_path, family, weights)
    for plan in PLANS:
        expected = model.session(threads=1, **plan).logits(IDS).tobytes()
        for threads in (1, 2, 8):
            session = model.session(threads=threads, **plan)
            num_repeats = NUM_REPEATS // len(PLANS)
            different = [
                repeat for repeat in range(num_repeats) if session.logits(IDS).tobytes() != expected
            ]
            assert different == [], f"{plan} with {threads} threads"


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_computed_together_or_alone_are_the_same_bits(
    tmp_path: Path, family: str, weights: str
) -> None:
    model = model_of(tmp_path, family, weights)
    for plan in PLANS:
        expected = model.session(prefill_chunk=256, **plan).logits(IDS)
        for chunk in (1, 2, 3, 5, 6, 8, 17, 64):
            divided = model.session(prefill_chunk=chunk, **plan).logits(IDS)
            assert divided.tobytes() == expected.tobytes(), f"{plan} in chunks of {chunk}"


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cached_prefix_continues_like_a_cold_one(
    tmp_path: Path, family: str, weights: str
) -> None:
    """Samples at a high temperature, so that a changed bit has a chance to change a token."""
    model = model_of(tmp_path, family, weights)
    sampling = _core.Sampling()
    sampling.temperature = 1.5
    sampling.seed = 7
    for plan in PLANS:
        executor = model.executor(threads=2, **plan)
        answers, cached = [], []
        for _ in range(3):
            session = _core.Session(executor)
            cached.append(session.prefill(IDS))
            answers.append(session.decode(40, sampling))
        assert cached[0] == 0
        assert cached[1:] == [64, 64]
        assert answers[1:] == answers[:1] * 2, str(plan)
