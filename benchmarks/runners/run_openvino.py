"""The peer OpenVINO, int4 weights, its own defaults else. Usage: run_openvino.py DIR THREADS

Drives the model the converter wrote for OpenVINO GenAI directly, because the pipeline has no call
that verifies several tokens; like the pipeline it computes only the logits asked for.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from protocol import RandomIds, serve


def slice_before_head(model: ov.Model) -> None:
    """Let an input `keep` choose the tokens whose logits are computed."""
    result = next(r for r in model.get_results() if "logits" in r.input(0).get_tensor().get_names())
    head = result.input_value(0).get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    keep = ops.parameter([-1], np.int64, name="keep")
    keep.output(0).get_tensor().set_names({"keep"})
    kept = ops.gather(head.input_value(0), keep, ops.constant(1, np.int64))
    head.input(0).replace_source_output(kept.output(0))
    model.add_parameters([keep])
    model.validate_nodes_and_infer_types()


class OpenVinoEngine:
    """One stateful request."""

    def __init__(self, directory: str, threads: int) -> None:
        core = ov.Core()
        model = core.read_model(Path(directory) / "openvino_model.xml")
        slice_before_head(model)
        names = {name for port in model.inputs for name in port.get_names()}
        self._has_positions = "position_ids" in names
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._request = core.compile_model(model, "CPU", options).create_infer_request()
        vocab_size = model.output("logits").get_partial_shape()[2].get_length()
        self._ids = RandomIds(vocab_size)
        self.reset()

    def reset(self) -> None:
        self._request.reset_state()
        self._length = 0
        self._next = 0

    def feed(self, num_tokens: int) -> None:
        logits = self._infer(self._ids(num_tokens), keep=1)
        self._next = int(logits[0, -1].argmax())

    def decode(self, num_tokens: int) -> None:
        for _ in range(num_tokens):
            self._next = int(self._infer([self._next], keep=1)[0, -1].argmax())

    def rows(self, num_tokens: int) -> None:
        """Keeps the tokens: taking them back means copying the whole cache here."""
        self._infer(self._ids(num_tokens), keep=num_tokens).argmax(-1)

    def _infer(self, ids: list[int], *, keep: int) -> np.ndarray:
        count = len(ids)
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, self._length + count), np.int64),
            "beam_idx": np.zeros(1, np.int32),
            "keep": np.arange(count - keep, count, dtype=np.int64),
        }
        if self._has_positions:
            inputs["position_ids"] = np.arange(self._length, self._length + count)[None]
        self._request.infer(inputs, share_inputs=True)
        self._length += count
        logits: np.ndarray = self._request.get_tensor("logits").data
        return logits


if __name__ == "__main__":
    version = ov.get_version().split("-")[0]
    serve(OpenVinoEngine(sys.argv[1], int(sys.argv[2])), f"OpenVINO {version}, int4")
