"""The bound kernels against float64 NumPy on every path this processor has."""

from __future__ import annotations

import numpy as np
import pytest

from autoglm import _core

ISAS = _core.cpu_info()["supported"]
RNG = np.random.default_rng(3)


def random(*dims: int) -> np.ndarray:
    return RNG.standard_normal(dims, dtype=np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4", "int3"])
@pytest.mark.parametrize("num_rows", [1, 3, 17])
def test_gemm_multiplies_by_the_dequantised_matrix(weights: str, num_rows: int, isa: str) -> None:
    w, x, bias = random(50, 130), random(num_rows, 130), random(50)
    parts = _core.pack_rows(weights, "F32", w.tobytes(), 50, 130)
    exact = np.frombuffer(_core.dequantize(weights, parts, 50, 130), np.float32).reshape(50, 130)
    wanted = x.astype(np.float64) @ exact.T.astype(np.float64) + bias
    got = _core.gemm(weights, parts, 50, x, bias, isa=isa)
    # Sums of 130 products of about 1; activations carry 16 bits.
    np.testing.assert_allclose(got, wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("weights", ["bf16", "int4", "int3"])
def test_many_rows_on_threads_are_those_of_single_ones(weights: str) -> None:
    w, x, bias = random(50, 130), random(700, 130), random(50)
    parts = _core.pack_rows(weights, "F32", w.tobytes(), 50, 130)
    got = _core.gemm(weights, parts, 50, x, bias, threads=3)
    for row in (0, 255, 256, 511, 699):
        one = _core.gemm(weights, parts, 50, x[row : row + 1], bias)
        assert np.array_equal(got[row : row + 1], one)


@pytest.mark.parametrize("isa", ISAS)
def test_swiglu_gates_blocks_of_sixteen_rows(isa: str) -> None:
    w, x = random(64, 32), random(5, 32)
    parts = _core.pack_rows("fp32", "F32", w.tobytes(), 64, 32)
    product = (x.astype(np.float64) @ w.T).reshape(5, 2, 2, 16)
    gate, up = product[:, :, 0], product[:, :, 1]
    wanted = (gate / (1 + np.exp(-gate)) * up).reshape(5, 32)
    got = _core.gemm("fp32", parts, 64, x, swiglu=True, isa=isa)
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("kv_dtype", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3), ("int8", 5e-2)]
)
@pytest.mark.parametrize("num_queries", [1, 70])
def test_attention_is_causal_over_the_last_tokens(
    num_queries: int, kv_dtype: str, tolerance: float, isa: str
) -> None:
    q, k, v = random(num_queries, 6, 20), random(131, 2, 20), random(131, 2, 20)
    keys, values = (a.repeat(3, axis=1).astype(np.float64) for a in (k, v))
    scores = np.einsum("thd,shd->hts", q, keys) / np.sqrt(20)
    first = 131 - num_queries
    scores[:, np.arange(131)[None, :] > first + np.arange(num_queries)[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    wanted = np.einsum("hts,shd->thd", weights, values).reshape(num_queries, -1)
    got = _core.attention(q, k, v, kv_dtype, isa)
    np.testing.assert_allclose(got, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("isa", ISAS)
def test_rms_norm_divides_by_the_root_mean_square(isa: str) -> None:
    x, gain = random(3, 50), random(50)
    wanted = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * gain
    np.testing.assert_allclose(_core.rms_norm(x, gain, 1e-5, isa), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_rotates_the_leading_pairs(interleaved: bool, isa: str) -> None:
    heads, angles = random(2, 10), random(3)
    cos, sin = np.cos(angles), np.sin(angles)
    got = _core.rope(heads, cos, sin, interleaved, isa)
    pairs = [(2 * i, 2 * i + 1) if interleaved else (i, i + 3) for i in range(3)]
    wanted = heads.astype(np.float64)
    for i, (a, b) in enumerate(pairs):
        wanted[:, a] = heads[:, a] * cos[i] - heads[:, b] * sin[i]
        wanted[:, b] = heads[:, b] * cos[i] + heads[:, a] * sin[i]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_pack_rows_refuses_a_buffer_of_another_size() -> None:
    with pytest.raises(_core.CoreError, match="needs 1024"):
        _core.pack_rows("int8", "F32", bytes(1000), 16, 16)


def test_pack_rows_refuses_values_that_are_not_finite() -> None:
    w = random(16, 16)
    w[3, 4] = np.nan
    with pytest.raises(_core.CoreError, match="NaN"):
        _core.pack_rows("int8", "F32", w.tobytes(), 16, 16)


@pytest.mark.parametrize("head_dim", [0, 7, 514])
def test_attention_refuses_heads_no_model_may_have(head_dim: int) -> None:
    heads = np.zeros((1, 1, head_dim), np.float32)
    with pytest.raises(_core.CoreError, match="one even size, at most 512"):
        _core.attention(heads, heads, heads, "fp16")


def hadamard(n: int) -> np.ndarray:
    """The normalised Hadamard matrix of blocks of the largest power of two in n."""
    block = np.ones((1, 1))
    while block.shape[0] < (n & -n):
        block = np.block([[block, block], [block, -block]])
    return np.kron(np.eye(n // len(block)), block / np.sqrt(len(block)))


@pytest.mark.parametrize("size", [1, 12, 64, 96])
def test_rows_are_scaled_then_rotated(size: int) -> None:
    x, scale = random(5, size), random(size)
    signs = np.sign(random(size))
    wanted = (x * scale * signs).astype(np.float64) @ hadamard(size)
    got = _core.transform_rows(
        "F32", x.tobytes(), 5, size, column_scale=scale.tobytes(), signs=signs.tobytes()
    )
    # Sums of up to 32 terms in float32.
    np.testing.assert_allclose(np.frombuffer(got, np.float32).reshape(5, size), wanted, atol=1e-5)


def test_rotated_columns_undo_the_rotation_of_rows() -> None:
    x, w = random(3, 48), random(7, 48)
    signs = np.sign(random(48)).tobytes()
    rotated = {
        name: np.frombuffer(_core.transform_rows("F32", m.tobytes(), *m.shape, signs=signs), "f4")
        for name, m in {"x": x, "w": w}.items()
    }
    # Both sides of a product rotate, so it stays; a matrix whose rows rotate is that transposed.
    product = rotated["x"].reshape(3, 48) @ rotated["w"].reshape(7, 48).T
    np.testing.assert_allclose(product, x @ w.T, atol=1e-4)
    by_columns = _core.transform_rows("F32", w.T.tobytes(), 48, 7, signs=signs, is_column_wise=True)
    np.testing.assert_array_equal(
        np.frombuffer(by_columns, "f4").reshape(48, 7).T, rotated["w"].reshape(7, 48)
    )


def test_column_buffers_of_another_size_are_refused() -> None:
    w = random(16, 16)
    with pytest.raises(_core.CoreError, match="column_scale has 12 bytes"):
        _core.pack_rows("int8", "F32", w.tobytes(), 16, 16, column_scale=bytes(12))
