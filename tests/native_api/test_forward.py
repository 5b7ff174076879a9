"""The native forward pass against float64 NumPy, and its independence of chunks and threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.native_api import reference
from tests.native_api.tiny_model import build

from autoglm import _core

IDS = np.random.default_rng(1).integers(0, 67, 150).tolist()
ISAS = _core.cpu_info()["supported"]
FAMILIES: dict[str, dict[str, int | float | bool | str]] = {
    "glm": {"head_dim": 16, "rotary_dim": 16},
    "glm4": {"sandwich_norms": True, "has_bias": True},
    "glm4_moe": {"num_experts": 8, "num_layers": 3, "rope_interleaved": False},
    "glm4_moe_dense_start": {"num_experts": 6, "n_group": 1, "num_shared_experts": 2},
    "qwen2": {"rope_interleaved": False, "rotary_dim": 10, "tie_word_embeddings": True},
    "qwen3": {"qk_norm": True, "rope_interleaved": False, "head_dim": 80, "rotary_dim": 80},
    "llama": {"num_kv_heads": 1, "rope_interleaved": False, "rope_scale": 1.2},
}


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_logits_match_float64(tmp_path: Path, family: str, isa: str) -> None:
    model = build(tmp_path / "model", **FAMILIES[family])
    got = model.session(isa=isa, prefill_chunk=64).logits(IDS)
    wanted = reference.logits(model, IDS)
    # 150 positions and two layers of float32 sums; observed errors stay below 2e-6.
    assert relative_error(got, wanted) <= 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["bf16", "int8", "int4", "int3"])
@pytest.mark.parametrize("family", ["glm4", "glm4_moe"])
def test_packed_logits_match_the_dequantised_model(
    tmp_path: Path, family: str, weights: str, isa: str
) -> None:
    model = build(tmp_path / "model", weights=weights, **FAMILIES[family])
    got = model.session(isa=isa, kv_dtype="fp32").logits(IDS)
    # Activations keep 16 bits (two planes), so only they and float32 sums differ.
    assert relative_error(got, reference.logits(model, IDS)) <= 5e-4


@pytest.mark.parametrize("isa", ISAS)
def test_half_kv_stays_close_to_fp32_kv(tmp_path: Path, isa: str) -> None:
    model = build(tmp_path / "model")
    exact = model.session(isa=isa, kv_dtype="fp32").logits(IDS)
    rounded = model.session(isa=isa, kv_dtype="fp16").logits(IDS)
    # Keys and values rounded to 8 bits of mantissa: 2^-9 each, averaged over the keys.
    assert 0 < relative_error(rounded, exact) <= 2e-2


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4", "int3"])
@pytest.mark.parametrize("family", ["glm4", "glm4_moe"])
def test_logits_are_the_same_bits_for_any_chunk_size_and_threads(
    tmp_path: Path, family: str, weights: str, isa: str
) -> None:
    model = build(tmp_path / "model", weights=weights, **FAMILIES[family])
    whole = model.session(isa=isa, threads=1, prefill_chunk=256).logits(IDS)
    for threads, chunk in [(2, 256), (3, 64), (2, 7), (1, 1)]:
        divided = model.session(isa=isa, threads=threads, prefill_chunk=chunk).logits(IDS)
        np.testing.assert_array_equal(whole, divided)


def test_score_is_the_negative_log_likelihood_of_the_logits(tmp_path: Path) -> None:
    session = build(tmp_path / "model").session(prefill_chunk=40)
    logits = session.logits(IDS).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    wanted = -sum(log_p[t, token] for t, token in enumerate(IDS[1:]))
    assert session.score(IDS) == pytest.approx(wanted, rel=1e-9)


def test_score_of_one_token_is_zero(tmp_path: Path) -> None:
    assert build(tmp_path / "model").session().score([5]) == 0.0


@pytest.mark.parametrize("tensor", ["router.weight", "router.bias"])
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_broken_router_is_reported(tmp_path: Path, tensor: str, value: float) -> None:
    """Experts that compare with nothing were chosen again and again, beyond the scratch."""
    model = build(tmp_path / "model", num_experts=8, num_experts_per_tok=4, n_group=1, topk_group=1)
    data = bytearray(model.path.read_bytes())
    for name, _, _, _, offset, num_bytes in model.table:
        if name.endswith(tensor):
            broken = np.full(num_bytes // 4, value, np.float32).tobytes()
            data[offset : offset + num_bytes] = broken
    model.path.write_bytes(data)
    with pytest.raises(_core.CoreError, match="NaN or infinite"):
        model.session(prefill_chunk=256).logits([i % 67 for i in range(256)])
