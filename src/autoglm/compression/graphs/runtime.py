"""Graphs in ONNX Runtime: sessions, and what single nodes compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoglm.errors import ModelFileError, require

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime as ort

Array = NDArray[np.generic]

_ERRORS_ONLY = 3


def open_session(
    model: ir.Model, *, threads: int = 1, is_optimised: bool = True
) -> ort.InferenceSession:
    """A session of the model; ModelFileError when the runtime refuses it."""
    ort = require("onnxruntime", extra="onnx")
    ir = require("onnx_ir", extra="onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    if not is_optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as err:  # the runtime's errors have no base of their own
        reason = " ".join(str(err).split())[:300]
        message = f"ONNX Runtime does not take the network: {reason}"
        raise ModelFileError(message) from err


def run(
    session: ort.InferenceSession, feeds: Mapping[str, Array], names: Sequence[str] | None = None
) -> list[Array]:
    """The outputs for these inputs; ModelFileError when the runtime cannot compute them."""
    try:
        outputs: list[Array] = session.run(names, dict(feeds))
    except Exception as err:
        reason = " ".join(str(err).split())[:300]
        message = f"ONNX Runtime cannot run the network on these inputs: {reason}"
        raise ModelFileError(message) from err
    return outputs


def computed(
    node: ir.Node, inputs: Sequence[Array | None], opsets: Mapping[str, int]
) -> list[Array]:
    """What a node of constant inputs gives."""
    ir = require("onnx_ir", extra="onnx")
    values = [
        None if array is None else ir.val(f"i{number}", const_value=ir.tensor(array))
        for number, array in enumerate(inputs)
    ]
    outputs = [ir.val(f"o{number}") for number in range(len(node.outputs))]
    alone = ir.Node(node.domain, node.op_type, values, node.attributes.values(), outputs=outputs)
    initializers = [value for value in values if value is not None]
    graph = ir.Graph(
        [],
        outputs,
        nodes=[alone],
        initializers=initializers,
        opset_imports=dict(opsets),
        name="node",
    )
    return run(open_session(ir.Model(graph, ir_version=10), is_optimised=False), {})
