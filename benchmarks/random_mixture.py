"""Write an int4 bundle with random weights in the shape of GLM-4.5-Air, cut to fewer layers.

The packed codes are random bytes, so nothing is converted. Weights of experts make up nine tenths.
Usage: random_mixture.py DIR [--layers N] [--vocab V] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from random_checkpoint import TEMPLATE, byte_tokenizer

from autoglm.modelfile.arch import parse_architecture
from autoglm.modelfile.bundle import WEIGHTS_NAME
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.layout import Matrix, Vector
from autoglm.modelfile.packing import Packing, config_text, packed_tensors
from autoglm.modelfile.safetensors import tensor_bytes
from autoglm.modelfile.safetensors_writer import SafetensorsWriter
from autoglm.modelfile.staging import staged_directory, write_file

CHUNK_BYTES = 8 << 20
GROUP_SCALE = 8
CODE_DEVIATION = 4.2  # of the codes below
INT8_DEVIATION = 73.6
LAYERS, VOCAB = 7, 32768
INT4 = Packing(weights="int4")
# Two codes a byte, code + 8 in each nibble. Codes of mean zero: -8 becomes 0. With any other mean
# all tokens would share a large part of their hidden states, and choose the same experts.
_CODES = np.array([8, *range(1, 16)], np.uint8)
_BALANCED = (_CODES[:, None] << 4 | _CODES).reshape(-1)
# Codes -127..127; -128 becomes 0.
_INT8 = np.array([code if code != 128 else 0 for code in range(256)], np.uint8)


def shape(layers: int, vocab: int) -> dict[str, object]:
    """`config.json` of GLM-4.5-Air with fewer layers and a smaller vocabulary."""
    return {
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "hidden_size": 4096,
        "num_hidden_layers": layers,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "vocab_size": vocab,
        "max_position_embeddings": 8192,
        "attention_bias": False,
        "use_qk_norm": False,
        "partial_rotary_factor": 0.5,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "eos_token_id": [256, 260],
    }


def write_bundle(
    directory: Path, config: dict[str, object], packing: Packing = INT4, *, seed: int = 0
) -> int:
    """Write the bundle, of int4 and int8 matrices; returns the bytes of its weights."""
    arch = parse_architecture(Fields(config, "config.json"), packing.weights)
    rng = np.random.default_rng(seed)
    tensors = packed_tensors(arch, packing)
    specs = [spec for tensor in tensors for spec in tensor.parts()]
    with staged_directory(directory) as stage:
        with SafetensorsWriter(stage / WEIGHTS_NAME, specs) as writer:
            for tensor in tensors:
                _fill(writer, tensor, rng)
            writer.finish()
        write_file(stage / "config.json", config_text(config, packing))
        tokenizer_config = {"chat_template": TEMPLATE, "eos_token": "<|endoftext|>"}
        write_file(stage / "tokenizer_config.json", json.dumps(tokenizer_config).encode())
        byte_tokenizer().save(str(stage / "tokenizer.json"))
    return writer.num_bytes


def _fill(writer: SafetensorsWriter, tensor: Matrix | Vector, rng: np.random.Generator) -> None:
    if isinstance(tensor, Vector):
        writer.append(tensor.name, _values(tensor, rng).tobytes())
        return
    for spec in tensor.parts():
        size = tensor_bytes(spec.dtype, spec.shape)
        if spec.name.endswith(".weight"):
            for start in range(0, size, CHUNK_BYTES):
                chunk = np.frombuffer(rng.bytes(min(CHUNK_BYTES, size - start)), np.uint8)
                codes = _BALANCED if tensor.weights == "int4" else _INT8
                writer.append(spec.name, codes[chunk].tobytes())
        elif spec.name.endswith(".group_scale"):
            writer.append(spec.name, bytes([GROUP_SCALE]) * size)
        else:
            # Embeddings of deviation one: tokens differ as much as the layers change them.
            inputs = 1 if tensor.name == "model.embed_tokens" else tensor.cols
            code = GROUP_SCALE * CODE_DEVIATION if tensor.weights == "int4" else INT8_DEVIATION
            scale = 1.0 / (math.sqrt(inputs) * code)
            writer.append(spec.name, np.full(size // 4, scale, np.float32).tobytes())


def _values(
    vector: Vector, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Gains of one, biases of zero, routers whose scores have deviation one."""
    if len(vector.shape) == 2:
        deviation = np.float32(1.0 / math.sqrt(vector.shape[1]))
        return rng.standard_normal(vector.shape, np.float32) * deviation
    return np.full(vector.shape, 0.0 if vector.name.endswith("bias") else 1.0, np.float32)


def main() -> int:
    """Write one bundle."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--vocab", type=int, default=VOCAB)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    num_bytes = write_bundle(args.directory, shape(args.layers, args.vocab), seed=args.seed)
    print(f"{args.directory}: {num_bytes / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
