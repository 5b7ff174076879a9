"""Checkpoints of GPTQ and AWQ tools: the floats their published formulas give."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import autoglm
from autoglm.errors import ModelConfigError, ModelFileError, UnsupportedModelError

GROUP = 8
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output at each place of a word


def words(codes: np.ndarray, bits: int, order=None) -> np.ndarray:
    """int32 words of neighbouring codes along the last axis."""
    per_word = 32 // bits
    groups = codes.astype(np.uint32).reshape(len(codes), -1, per_word)
    result = np.zeros(groups.shape[:2], np.uint32)
    for place in range(per_word):
        code = groups[:, :, place if order is None else order[place]]
        result |= code << np.uint32(bits * place)
    return result.view(np.int32)


def quantised(method: str, bits: int, inputs: int, outputs: int, seed: int, offset: int):
    """Stored parts of a layer and the matrix [outputs, inputs] they stand for."""
    rng = np.random.default_rng(seed)
    most = (1 << bits) - 1
    codes = rng.integers(0, most + 1, (inputs, outputs))
    zeros = rng.integers(offset, most + 1, (inputs // GROUP, outputs))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    groups = np.arange(inputs) // GROUP
    if method == "gptq":
        groups = rng.permutation(groups)
    values = np.zeros((outputs, inputs), np.float32)
    for i in range(inputs):
        for j in range(outputs):
            g = groups[i]
            values[j, i] = np.float32(codes[i, j] - zeros[g, j]) * np.float32(scales[g, j])
    if method == "gptq":
        parts = {
            "qweight": np.ascontiguousarray(words(codes.T, bits).T),
            "qzeros": words(zeros - offset, bits),
            "scales": scales,
            "g_idx": groups.astype(np.int32),
        }
    else:
        parts = {
            "qweight": words(codes, bits, AWQ_ORDER),
            "qzeros": words(zeros, bits, AWQ_ORDER),
            "scales": scales,
        }
    return parts, values


def write(parts, path, method="gptq", bits=4, entry=None, change=lambda stored: None):
    """A checkpoint whose linear layers are quantised; parts.tensors becomes what it stands for."""
    offset = 1 if method == "gptq" else 0
    stored = {}
    for number, (name, values) in enumerate(parts.tensors.items()):
        if ".layers." not in name or values.ndim != 2:
            stored[name] = values
            continue
        outputs, inputs = values.shape
        layer, parts.tensors[name] = quantised(method, bits, inputs, outputs, number, offset)
        stem = name.removesuffix(".weight")
        stored |= {f"{stem}.{suffix}": array for suffix, array in layer.items()}
    change(stored)
    path.mkdir()
    config = {
        **parts.config,
        "quantization_config": {
            "quant_method": method,
            "bits": bits,
            "group_size": GROUP,
            **(entry or {}),
        },
    }
    (path / "config.json").write_text(json.dumps(config))
    save_file(stored, path / "model.safetensors")
    return path


@pytest.mark.parametrize(("method", "bits"), [("gptq", 4), ("gptq", 8), ("awq", 4)])
def test_bundle_is_that_of_the_floats(parts, recipe, tmp_path, method, bits):
    mine = recipe('weights = "fp32"')
    autoglm.compress(write(parts, tmp_path / "q", method, bits), mine, out=tmp_path / "imported")
    parts.files = {}
    autoglm.compress(parts.write(tmp_path / "src"), mine, out=tmp_path / "ours")
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("imported", "ours")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"quant_method": "fp8"}, "quantised by 'fp8'; read are gptq and awq"),
        ({"bits": 3}, "gptq of 3 bits is not read"),
        ({"quant_method": "awq", "version": "gemv"}, "layout 'gemv' is not read"),
    ],
)
def test_what_is_not_read_is_refused(parts, tmp_path, entry, message):
    with pytest.raises(UnsupportedModelError, match=message):
        autoglm.compress(write(parts, tmp_path / "q", entry=entry), out=tmp_path / "out")


NAME = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop(f"{NAME}.scales"), ModelConfigError, f"'{NAME}' lacks scales"),
        (
            lambda s: s.update({f"{NAME}.qzeros": np.zeros((4, 3), np.int32)}),
            ModelConfigError,
            r"qzeros' is I32 \[4, 3\], the layout asks for I32 \[4, 4\]",
        ),
        (
            lambda s: s.update({f"{NAME}.scales": np.zeros((4, 32), np.float32)}),
            ModelConfigError,
            "scales' is F32",
        ),
        (
            lambda s: s.update({f"{NAME}.g_idx": np.full(32, 9, np.int32)}),
            ModelFileError,
            "g_idx' names groups that there are not",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(parts, tmp_path, change, error, message):
    source = write(parts, tmp_path / "q", change=change)
    with pytest.raises(error, match=message):
        autoglm.compress(source, out=tmp_path / "out")
