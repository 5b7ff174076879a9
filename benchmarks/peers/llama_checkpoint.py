"""A checkpoint of the Llama architecture from a random one of the GLM architecture.

The same numbers under other names: GLM stacks the gate and up matrices, Llama does not, so only the
header of the file changes. For peers whose converters do not know GLM.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

WEIGHTS, CONFIG = "model.safetensors", "config.json"
COPIED = ("tokenizer.json", "tokenizer_config.json")
KEPT = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "rope_theta",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "hidden_act",
    "torch_dtype",
)
LENGTH_BYTES = 8


def llama_config(glm: dict[str, object]) -> dict[str, object]:
    """config.json of the Llama of the same shape."""
    kept = {name: glm[name] for name in KEPT}
    names = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    return {**names, **kept, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2}


def llama_header(glm: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entries of the safetensors header with gate and up apart."""
    entries: dict[str, dict[str, Any]] = {}
    for name, entry in glm.items():
        if "gate_up_proj" not in name:
            entries[name] = entry
            continue
        (rows, cols), (begin, end) = entry["shape"], entry["data_offsets"]
        middle = (begin + end) // 2
        for kind, offsets in (("gate_proj", [begin, middle]), ("up_proj", [middle, end])):
            half = {"dtype": entry["dtype"], "shape": [rows // 2, cols], "data_offsets": offsets}
            entries[name.replace("gate_up_proj", kind)] = half
    return entries


def write_llama_checkpoint(glm: Path, out: Path) -> None:
    """Write `out` beside `glm`."""
    out.mkdir(parents=True)
    config = json.loads((glm / CONFIG).read_text(encoding="utf-8"))
    (out / CONFIG).write_text(json.dumps(llama_config(config), indent=2), encoding="utf-8")
    for name in COPIED:
        shutil.copyfile(glm / name, out / name)
    with (glm / WEIGHTS).open("rb") as source, (out / WEIGHTS).open("wb") as target:
        length = int.from_bytes(source.read(LENGTH_BYTES), "little")
        header = json.dumps(llama_header(json.loads(source.read(length)))).encode()
        header += b" " * (-(len(header) + LENGTH_BYTES) % 64)
        target.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
        shutil.copyfileobj(source, target, 1 << 24)
