"""NaN and infinity never become a token: wherever they stand, the call ends in an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.native_api.tiny_model import TinyModel, build

from autoglm import _core

IDS = [0, *np.random.default_rng(1).integers(0, 67, 39).tolist()]
ISAS = _core.cpu_info()["supported"]
MODEL_FILE = 101
FAMILIES: dict[str, dict[str, int | float | bool | str]] = {
    "glm4": {"sandwich_norms": True, "has_bias": True},
    "qwen3": {"qk_norm": True, "rope_interleaved": False},
    "glm4_moe": {"num_experts": 4, "num_layers": 2, "n_group": 1},
}
NUM_BYTES = {"F32": 4, "BF16": 2}
# Each broken value meets one type of cache.
CASES = [(np.nan, "fp16"), (np.inf, "int8"), (-np.inf, "fp32")]


def poison(model: TinyModel, tensor: str, value: float) -> None:
    """Put `value` at the first place of a tensor: row 0, column 0."""
    data = bytearray(model.path.read_bytes())
    _, dtype, _, _, offset, _ = next(row for row in model.table if row[0] == tensor)
    bits = np.float32(value).tobytes()[-NUM_BYTES[dtype] :]
    data[offset : offset + len(bits)] = bits
    model.path.write_bytes(data)


def float_tensors(model: TinyModel) -> list[str]:
    return [name for name, dtype, *_ in model.table if dtype in NUM_BYTES]


def failures(model: TinyModel, plan: dict[str, int | str]) -> list[str]:
    """The calls that did not end in the error."""
    calls = {
        "logits": lambda session: session.logits(IDS),
        "score": lambda session: session.score(IDS),
        "decode": lambda session: (session.prefill(IDS), session.decode(3, _core.Sampling())),
    }
    missed = []
    for name, call in calls.items():
        try:
            call(model.session(**plan))
        except _core.CoreError as err:
            code, message = err.args
            if code == MODEL_FILE and "NaN or infinite" in message:
                continue
            missed.append(f"{name}: {code} {message}")
        else:
            missed.append(name)
    return missed


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4", "int3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_broken_value_in_any_tensor_is_an_error(
    tmp_path: Path, family: str, weights: str, isa: str
) -> None:
    model = build(tmp_path / "model", weights=weights, **FAMILIES[family])
    intact = model.path.read_bytes()
    missed = {}
    for tensor in float_tensors(model):
        for value, kv_dtype in CASES:
            poison(model, tensor, value)
            if found := failures(model, {"isa": isa, "threads": 1, "kv_dtype": kv_dtype}):
                missed[f"{tensor} {value}"] = found
            model.path.write_bytes(intact)
    assert missed == {}
