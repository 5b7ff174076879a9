"""A Llama checkpoint as an OpenVINO model of symmetric int4 weights in groups of 128.

Usage: write_openvino.py CHECKPOINT DIR
"""

from __future__ import annotations

import sys

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig


def write(checkpoint: str, out: str) -> None:
    """Export and compress, embedding and head included, as ours are."""
    rounding = OVWeightQuantizationConfig(
        bits=4, sym=True, group_size=128, ratio=1.0, all_layers=True
    )
    model = OVModelForCausalLM.from_pretrained(
        checkpoint, export=True, compile=False, quantization_config=rounding
    )
    model.save_pretrained(out)


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])
