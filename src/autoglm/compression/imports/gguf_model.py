"""A GGUF model as the checkpoint it was made from: names, shapes and order of rows as published.

Supported are llama, qwen2 and qwen3. The rows of q and k of a llama are stored for rotation of
neighbouring pairs and go back to halves here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autoglm.compression.imports.gguf import GgufFile, GgufTensor, Value
from autoglm.compression.imports.gguf_blocks import BLOCK_OF, Floats, dequantise
from autoglm.errors import ModelConfigError, ModelFileError, UnsupportedModelError
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import Rows
from autoglm.modelfile.safetensors import TensorInfo

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.([a-z_]+)\Z")


class GgufCheckpoint(Checkpoint):
    """The tensors of a GGUF file under the checkpoint's names, as float32 rows."""

    def __init__(self, path: Path) -> None:
        """ModelFileError and its kinds say what is wrong with the file."""
        self._file = GgufFile(path)
        self._stored: dict[str, GgufTensor] = {}
        self._in_order: tuple[str, Floats] | None = None
        super().__init__(path.parent)

    def config(self) -> dict[str, object]:
        """What config.json said of this model."""
        return config_of(self._file.header.keys, has_head="lm_head.weight" in self.tensors)

    def read_rows(self, rows: Rows, start: int, count: int) -> bytes:
        """`count` rows from row `start` of the piece, as float32."""
        tensor = self._stored[rows.source]
        begin, end = rows.start + start, rows.start + start + count
        num_heads = self._paired_heads(rows.source)
        if num_heads:
            return self._in_halves(rows.source, tensor, num_heads)[begin:end].tobytes()
        row_bytes = tensor.nbytes // tensor.shape[0]
        data = self._file.read(tensor, begin * row_bytes, count * row_bytes)
        return dequantise(BLOCK_OF[tensor.kind], data).tobytes()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        for tensor in self._file.header.tensors.values():
            name = checkpoint_name(tensor.name)
            if len(tensor.shape) > 2:
                message = f"{self._file.path}: tensor '{tensor.name}' has {len(tensor.shape)} "
                message += "dimensions; mixtures of experts are not read from GGUF"
                raise UnsupportedModelError(message)
            nbytes = 4 * int(np.prod(tensor.shape, dtype=object))
            info = TensorInfo(name, "F32", tensor.shape, 0, nbytes)
            self.tensors[name] = self._file.path.name, info
            self._stored[name] = tensor

    def _paired_heads(self, name: str) -> int:
        """The heads whose rows alternate between halves; 0 where rows are in order."""
        keys = self._file.header.keys
        if keys.get("general.architecture") != "llama":
            return 0
        if ".self_attn.q_proj." in name:
            return _integer(keys, "llama.attention.head_count")
        if ".self_attn.k_proj." in name:
            usual = _integer(keys, "llama.attention.head_count")
            return _integer(keys, "llama.attention.head_count_kv", usual)
        return 0

    def _in_halves(self, name: str, tensor: GgufTensor, num_heads: int) -> Floats:
        """All rows of q or k in the checkpoint's order; the last tensor is kept."""
        if self._in_order is None or self._in_order[0] != name:
            num_rows = tensor.shape[0]
            if num_heads < 1 or num_rows % (2 * num_heads):
                message = f"{self._file.path}: {num_rows} rows of '{tensor.name}' are no "
                message += f"{num_heads} heads"
                raise ModelFileError(message)
            data = self._file.read(tensor, 0, tensor.nbytes)
            values = dequantise(BLOCK_OF[tensor.kind], data)
            pairs = values.reshape(num_heads, num_rows // num_heads // 2, 2, -1)
            self._in_order = name, pairs.swapaxes(1, 2).reshape(num_rows, -1)
        return self._in_order[1]


def checkpoint_name(name: str) -> str:
    """The checkpoint's name of a tensor; UnsupportedModelError for one that has no place."""
    stem, _, suffix = name.rpartition(".")
    layer = _LAYER.match(stem)
    if suffix in ("weight", "bias"):
        if stem in _OUTER:
            return f"{_OUTER[stem]}.{suffix}"
        if layer and layer[2] in _INNER:
            return f"model.layers.{layer[1]}.{_INNER[layer[2]]}.{suffix}"
    message = f"tensor '{name[:200]}' belongs to no model that is read from GGUF"
    raise UnsupportedModelError(message)


def config_of(keys: Mapping[str, Value], *, has_head: bool) -> dict[str, object]:
    """A config.json for the keys of a GGUF file."""
    family = keys.get("general.architecture")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        message = f"architecture {family!r:.80} is not read from GGUF; read are "
        message += ", ".join(ARCHITECTURES)
        raise UnsupportedModelError(message)
    if f"{family}.rope.scaling.type" in keys and keys[f"{family}.rope.scaling.type"] != "none":
        message = "rope scaling is not read from GGUF; convert the original checkpoint"
        raise UnsupportedModelError(message)

    def integer(name: str, default: int | None = None) -> int:
        return _integer(keys, f"{family}.{name}", default)

    num_heads = integer("attention.head_count")
    hidden_size = integer("embedding_length")
    tokens = keys.get("tokenizer.ggml.tokens")
    num_tokens = len(tokens) if isinstance(tokens, tuple) else None
    config: dict[str, object] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": integer("vocab_size", num_tokens),
        "hidden_size": hidden_size,
        "intermediate_size": integer("feed_forward_length"),
        "num_hidden_layers": integer("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": integer("attention.head_count_kv", num_heads),
        "head_dim": integer("attention.key_length", hidden_size // max(num_heads, 1)),
        "max_position_embeddings": integer("context_length"),
        "rms_norm_eps": _real(keys, f"{family}.attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": _real(keys, f"{family}.rope.freq_base", 10000.0),
        "tie_word_embeddings": not has_head,
    }
    for name in ("bos", "eos"):
        if f"tokenizer.ggml.{name}_token_id" in keys:
            config[f"{name}_token_id"] = _integer(keys, f"tokenizer.ggml.{name}_token_id")
    return config


def _integer(keys: Mapping[str, Value], key: str, default: int | None = None) -> int:
    value = keys.get(key, default)
    if type(value) is int:
        return value
    message = f"key '{key}' is {value!r:.80}, expected a whole number"
    raise ModelConfigError(message)


def _real(keys: Mapping[str, Value], key: str, default: float) -> float:
    value = keys.get(key, default)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(float(value), 12)
    message = f"key '{key}' is {value!r:.80}, expected a number"
    raise ModelConfigError(message)
