"""Write a GLM checkpoint with random weights, in the shape of a real model or a tiny one.

Speed and memory depend on the shape alone, so a measurement needs no download. Weights are bf16.
Usage: random_checkpoint.py {tiny,small,glm-edge-1.5b} DIR [--seed N]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CHUNK_VALUES = 2**22
BF16_BYTES = 2
CONTROLS = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a GlmForCausalLM."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_position: int = 8192

    def config(self) -> dict[str, object]:
        """The checkpoint's config.json."""
        return {
            "architectures": ["GlmForCausalLM"],
            "model_type": "glm",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.max_position,
            "attention_bias": False,
            "partial_rotary_factor": 1.0,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "hidden_act": "silu",
            "torch_dtype": "bfloat16",
            "eos_token_id": [256, 260],
            "pad_token_id": 256,
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all tensors, in file order."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = {
            "input_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (query, self.hidden),
            "self_attn.k_proj.weight": (kv, self.hidden),
            "self_attn.v_proj.weight": (kv, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, query),
            "post_attention_layernorm.weight": (self.hidden,),
            "mlp.gate_up_proj.weight": (2 * self.intermediate, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.intermediate),
        }
        names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for number in range(self.layers):
            names |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
        return names | {"model.norm.weight": (self.hidden,)}


SHAPES = {
    "tiny": Shape(
        hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=270
    ),
    "small": Shape(
        hidden=512, layers=12, heads=8, kv_heads=2, head_dim=64, intermediate=1536, vocab=16384
    ),
    "glm-edge-1.5b": Shape(
        hidden=2048, layers=28, heads=16, kv_heads=4, head_dim=128, intermediate=6144, vocab=59264
    ),
}


def write_checkpoint(directory: Path, shape: Shape, *, seed: int = 0) -> None:
    """Write config, weights, a byte-level tokenizer and a chat template into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(shape.config(), indent=2), encoding="utf-8")
    tokenizer_config = {"chat_template": TEMPLATE, "eos_token": CONTROLS[0]}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    _write_weights(directory / "model.safetensors", shape, np.random.default_rng(seed))


def byte_tokenizer() -> Tokenizer:
    """One token a byte, then the control tokens from id 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(c, special=True, normalized=False) for c in CONTROLS])
    return tokenizer


def _write_weights(path: Path, shape: Shape, rng: np.random.Generator) -> None:
    entries: dict[str, dict[str, object]] = {}
    offset = 0
    for name, dims in shape.tensors().items():
        end = offset + math.prod(dims) * BF16_BYTES
        entries[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries).encode()
    header += b" " * (-(len(header) + 8) % 64)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for dims in shape.tensors().values():
            count = math.prod(dims)
            for start in range(0, count, CHUNK_VALUES):
                size = min(CHUNK_VALUES, count - start)
                stream.write(_ones(size) if len(dims) == 1 else _normal(size, dims[1], rng))


def _ones(count: int) -> bytes:
    return np.full(count, 0x3F80, np.uint16).tobytes()


def _normal(count: int, fan_in: int, rng: np.random.Generator) -> bytes:
    """Values of deviation 1/sqrt(fan_in), cut to bf16."""
    values = rng.standard_normal(count, np.float32) / np.float32(math.sqrt(fan_in))
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def main() -> int:
    """Write one checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_checkpoint(args.directory, SHAPES[args.shape], seed=args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
