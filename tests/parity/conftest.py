"""Small random models of every family, and the logits that transformers gives for them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoglm import _core
from autoglm.modelfile.arch import ArchConfig
from autoglm.modelfile.bundle import Bundle, open_bundle, read_bundle_config
from autoglm.modelfile.convert import convert
from autoglm.modelfile.layout import ROW_BLOCK, Matrix
from autoglm.modelfile.packing import packed_tensors
from autoglm.modelfile.safetensors import TensorFile

if TYPE_CHECKING:
    import torch

NUM_POSITIONS = 1024
PACKED = ("bf16", "int8", "int4")
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


@dataclass(frozen=True)
class Spec:
    """A family and the sizes that make it odd."""

    family: str  # the class name before "ForCausalLM"
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    layers: int = 2
    is_tied: bool = False
    rope: dict[str, object] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)


MOE = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
    "attention_bias": True,
}
SPECS = {
    "glm": Spec("Glm", 120, 3, 1, 80, 200, 203, rope={"partial_rotary_factor": 0.5}),
    "glm-edge": Spec(
        "Glm",
        128,
        4,
        2,
        64,
        144,
        256,
        is_tied=True,
        rope={"partial_rotary_factor": 1.0},
        extra={"attention_bias": False},
    ),
    "glm4": Spec("Glm4", 80, 2, 1, 96, 136, 210, rope={"partial_rotary_factor": 0.5}, layers=3),
    "glm4-moe": Spec("Glm4Moe", 96, 4, 2, 64, 104, 190, layers=3, extra=MOE),
    "glm4-moe-groups": Spec(
        "Glm4Moe",
        100,
        4,
        1,
        32,
        72,
        180,
        extra={
            **MOE,
            "n_group": 4,
            "topk_group": 2,
            "n_shared_experts": 2,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.5,
            "use_qk_norm": True,
        },
    ),
    "qwen2": Spec("Qwen2", 256, 4, 2, 64, 300, 301, is_tied=True),
    "qwen2-yarn": Spec("Qwen2", 112, 4, 4, 28, 100, 160, rope=YARN),
    "qwen3": Spec("Qwen3", 96, 4, 2, 128, 160, 222, is_tied=True),
    "qwen3-bias": Spec("Qwen3", 72, 6, 3, 16, 90, 131, extra={"attention_bias": True}),
    "llama": Spec("Llama", 192, 3, 1, 64, 250, 205, rope=LLAMA3),
    "llama-bias": Spec(
        "Llama", 96, 2, 2, 96, 110, 150, extra={"attention_bias": True, "mlp_bias": True}
    ),
}


@dataclass(frozen=True)
class Case:
    """One random model: its checkpoint, some token ids and the reference's logits for them."""

    checkpoint: Path
    ids: list[int]
    logits: np.ndarray  # float32 [NUM_POSITIONS, vocab]
    dequantised: dict[str, np.ndarray] = field(default_factory=dict)

    def bundle(self, weights: str, **options: object) -> Bundle:
        """The model in this weight format, converted once for these options of `convert`."""
        path = self.checkpoint.parent / _folder(weights, options)
        if not path.exists():
            convert(self.checkpoint, path, weights, **options)
        return open_bundle(path)

    def dequantised_logits(self, weights: str, **options: object) -> np.ndarray:
        """The reference's logits with the weights that the bundle stands for."""
        folder = _folder(weights, options)
        if folder in self.dequantised:
            return self.dequantised[folder]
        bundle = self.bundle(weights, **options)
        path = self.checkpoint.parent / f"{folder}-dequantised"
        _write_checkpoint(path, bundle.path, _dequantise(bundle))
        logits = self.dequantised[folder] = reference_logits(path, self.ids)
        return logits


def _folder(weights: str, options: dict[str, object]) -> str:
    return f"{weights}-{abs(hash(repr(options))):x}" if options else weights


@pytest.fixture(scope="session")
def start() -> Callable[..., Callable[[], _core.Session]]:
    """Load a bundle under a Plan with these fields; each call of the result is a new session."""

    def load(bundle: Bundle, **fields: object) -> Callable[[], _core.Session]:
        plan = _core.Plan()
        for key, value in {"max_context": 2 * NUM_POSITIONS, **fields}.items():
            setattr(plan, key, value)
        files = [str(path) for path in bundle.files]
        model = _core.Model(_core_config(bundle.config), files, list(bundle.tensors))
        executor = _core.Executor(model, plan)
        return lambda: _core.Session(executor)

    return load


@pytest.fixture(scope="session")
def make_case(tmp_path_factory) -> Callable[[str], Case]:
    """Build the case of a name in SPECS, once."""
    cases: dict[str, Case] = {}

    def build(name: str) -> Case:
        if name not in cases:
            path = tmp_path_factory.mktemp(name) / "checkpoint"
            seed = sorted(SPECS).index(name)
            _save_random_model(path, SPECS[name], seed)
            ids = np.random.default_rng(seed).integers(0, SPECS[name].vocab, NUM_POSITIONS)
            cases[name] = Case(path, ids.tolist(), reference_logits(path, ids.tolist()))
        return cases[name]

    return build


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `name`, `dense_name` or `weights` run for all of them."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", SPECS)
    if "dense_name" in metafunc.fixturenames:
        metafunc.parametrize("dense_name", [name for name in SPECS if "moe" not in name])
    if "weights" in metafunc.fixturenames:
        metafunc.parametrize("weights", PACKED)


def reference_logits(checkpoint: Path, ids: list[int]) -> np.ndarray:
    """float32 logits of transformers."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def _core_config(config: ArchConfig) -> _core.ModelConfig:
    result = _core.ModelConfig()
    for name in (f.name for f in dataclasses.fields(config)):
        value = getattr(config, name)
        setattr(result, name, list(value) if isinstance(value, tuple) else value)
    return result


def _save_random_model(path: Path, spec: Spec, seed: int) -> None:
    import torch
    import transformers

    config = getattr(transformers, f"{spec.family}Config")(
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate,
        vocab_size=spec.vocab,
        tie_word_embeddings=spec.is_tied,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, **spec.rope},
        rms_norm_eps=1e-5,
        pad_token_id=0,
        **spec.extra,
    )
    model = getattr(transformers, f"{spec.family}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("inv_freq"):
                continue
            _randomise(name, value, generator)
    model.save_pretrained(path)


def _randomise(name: str, value: torch.Tensor, generator: torch.Generator) -> None:
    """Gains around 1, biases around 0, weights that keep the scale of what they multiply."""
    if "norm" in name:
        value.uniform_(0.5, 1.5, generator=generator)
    elif value.ndim == 1:
        value.normal_(0.0, 0.2, generator=generator)
    else:
        value.normal_(0.0, 1 / math.sqrt(value.shape[-1]), generator=generator)


def _dequantise(bundle: Bundle) -> dict[str, np.ndarray]:
    """The float tensors a bundle stands for, under the checkpoint's names."""
    _, arch, packing = read_bundle_config(bundle.path)
    result: dict[str, np.ndarray] = {}
    with TensorFile(bundle.files[0]) as file:
        for tensor in packed_tensors(arch, packing):
            if isinstance(tensor, Matrix):
                for number, pieces in enumerate(tensor.experts):
                    values = _matrix(file, tensor, number)
                    _scatter(result, pieces, values, tensor.is_interleaved)
                continue
            if tensor.name in file.header.tensors:
                stored = file.header.tensors[tensor.name]
                data = file.read(stored, 0, stored.nbytes)
            else:
                data = bytes(4 * math.prod(tensor.shape))  # a bias of zeros
            values = np.frombuffer(data, np.float32).reshape(tensor.shape)
            _scatter(result, tensor.pieces, values, tensor.is_interleaved)
    return result


def _matrix(file: TensorFile, matrix: Matrix, number: int) -> np.ndarray:
    parts = []
    for spec in matrix.parts():
        stored = file.header.tensors[spec.name]
        size = stored.nbytes // len(matrix.experts)
        parts.append(file.read(stored, number * size, size))
    data = _core.dequantize(matrix.weights, parts, matrix.rows, matrix.cols)
    return np.frombuffer(data, np.float32).reshape(matrix.rows, matrix.cols)


def _scatter(
    result: dict[str, np.ndarray], pieces: tuple, values: np.ndarray, is_interleaved: bool
) -> None:
    if is_interleaved:
        blocks = values.reshape(-1, len(pieces), ROW_BLOCK, *values.shape[1:])
        sides = [blocks[:, i].reshape(-1, *values.shape[1:]) for i in range(len(pieces))]
    else:
        ends = np.cumsum([rows.count for rows in pieces])
        sides = np.split(values, ends[:-1])
    for rows, side in zip(pieces, sides, strict=True):
        target = result.setdefault(rows.source, np.empty(rows.source_shape, np.float32))
        target[rows.start : rows.start + rows.count] = side[: rows.count]


def _write_checkpoint(path: Path, like: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    path.mkdir()
    config = json.loads((like / "config.json").read_text())
    del config["quantization_config"]
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
