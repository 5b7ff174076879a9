"""A tiny Llama checkpoint in pieces that tests can break before it is written."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

HIDDEN, INTER, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 32, 40, 50, 4, 2, 8
LAYER = {
    "input_layernorm.weight": (HIDDEN,),
    "self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
    "post_attention_layernorm.weight": (HIDDEN,),
    "mlp.gate_proj.weight": (INTER, HIDDEN),
    "mlp.up_proj.weight": (INTER, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, INTER),
}
NUM_LAYERS = 2


@dataclass
class Parts:
    """What will be written; change it at will."""

    config: dict[str, object]
    tensors: dict[str, np.ndarray]
    files: dict[str, bytes]

    def write(self, path: Path, *, shards: dict[str, list[str]] | None = None) -> Path:
        """Write the checkpoint, in one file or as shards {file: tensors} with an index."""
        from safetensors.numpy import save_file

        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(self.config))
        for name, content in self.files.items():
            (path / name).write_bytes(content)
        for file, names in (shards or {"model.safetensors": list(self.tensors)}).items():
            save_file({name: self.tensors[name] for name in names}, path / file)
        if shards:
            weight_map = {name: file for file, names in shards.items() for name in names}
            index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
            (path / "model.safetensors.index.json").write_text(json.dumps(index))
        return path


@pytest.fixture
def parts() -> Parts:
    """An untied float32 Llama with two layers and a tokenizer of ten words."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(NUM_LAYERS):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
    shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 256,
        "eos_token_id": 2,
    }
    tokenizer = {
        "added_tokens": [{"id": 10, "content": "<eos>"}],
        "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(10)}},
    }
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    return Parts(config, tensors, {"tokenizer.json": json.dumps(tokenizer).encode()})


@pytest.fixture
def leftovers() -> Callable[[Path], list[str]]:
    """Names in a directory: to see that a failed conversion left nothing."""
    return lambda path: sorted(entry.name for entry in path.iterdir())
