"""A checkpoint as a Hugging Face directory that transformers loads as `GlmForCausalLM`.

Run as `python -m autoglm.lite.export --checkpoint FILE --tokenizer FILE --out DIR`.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from autoglm.lite.checkpoint import load_checkpoint
from autoglm.lite.model import LiteModel
from autoglm.lite.tokenizer import CHAT_TEMPLATE, END, EOS_TOKENS, SPECIALS, token_id


def hf_tensors(model: LiteModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights under the names of `GlmForCausalLM`; the tied output matrix is left out."""
    config = model.config
    q_size = config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    tensors = {
        "model.embed_tokens.weight": model.embed.weight,
        "model.norm.weight": model.norm.weight,
    }
    for index, block in enumerate(model.blocks):
        prefix = f"model.layers.{index}"
        q, k, v = block.qkv.weight.split([q_size, kv_size, kv_size])
        tensors |= {
            f"{prefix}.input_layernorm.weight": block.input_norm.weight,
            f"{prefix}.self_attn.q_proj.weight": q,
            f"{prefix}.self_attn.k_proj.weight": k,
            f"{prefix}.self_attn.v_proj.weight": v,
            f"{prefix}.self_attn.o_proj.weight": block.o.weight,
            f"{prefix}.post_attention_layernorm.weight": block.mlp_norm.weight,
            f"{prefix}.mlp.gate_up_proj.weight": block.gate_up.weight,
            f"{prefix}.mlp.down_proj.weight": block.down.weight,
        }
    return {name: tensor.detach().to(dtype).contiguous() for name, tensor in tensors.items()}


def export(model: LiteModel, tokenizer_file: Path, out: Path, dtype: torch.dtype) -> None:
    """Write weights, configuration, tokenizer, chat template and generation defaults."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    eos_ids = [token_id(tokenizer, token) for token in EOS_TOKENS]
    end_id = token_id(tokenizer, END)
    ids = {"eos_token_id": eos_ids, "pad_token_id": end_id, "bos_token_id": None}
    name = "bfloat16" if dtype == torch.bfloat16 else "float32"
    _write_json(out / "config.json", model.config.to_hf() | ids | {"torch_dtype": name})
    _write_json(
        out / "generation_config.json",
        {"eos_token_id": eos_ids, "pad_token_id": end_id, "do_sample": False},
    )
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": END,
            "additional_special_tokens": [token for token in SPECIALS if token != END],
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.max_position,
        },
    )
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    shutil.copyfile(tokenizer_file, out / "tokenizer.json")
    save_file(hf_tensors(model, dtype), out / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(load_checkpoint(args.checkpoint), args.tokenizer, args.out, torch.bfloat16)


if __name__ == "__main__":
    main()
