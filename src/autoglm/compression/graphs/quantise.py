"""Int8 for ONNX networks: QuantizeLinear and DequantizeLinear around what has integer kernels.

ONNX Runtime makes integer convolutions of them. A weight w is scale[output] * q, q in [-127, 127];
an activation x is scale * (q - zero), its range measured on calibration inputs; a bias has 32 bits
and the product of both scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autoglm.compression.graphs.passes import constant, constant_of
from autoglm.compression.graphs.recipe import Activations, GraphRecipe
from autoglm.errors import UnsupportedModelError

MIN_OPSET = 13
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_OTHERS = ("Add", "MaxPool", "GlobalAveragePool", "AveragePool", "Concat")
_LARGEST = 127
_SMALLEST_SCALE = 1e-12


@dataclass(frozen=True, slots=True)
class Steps:
    """x ~ scale * (q - zero)."""

    scale: np.float32
    zero: NDArray[np.generic]  # of the type of q

    @classmethod
    def over(cls, low: float, high: float, activations: Activations) -> Steps:
        """The steps that cover a range and represent zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        if activations == "symmetric":
            scale = max(-low, high, _SMALLEST_SCALE) / _LARGEST
            return cls(np.float32(scale), np.array(0, np.int8))
        scale = max(high - low, _SMALLEST_SCALE) / 255.0
        return cls(np.float32(scale), np.array(round(-low / scale), np.uint8))


def quantised_weights(
    weights: NDArray[np.float32], axis: int, *, is_per_channel: bool
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes to nearest, and a scale for each index of `axis` or one for all."""
    others = tuple(dim for dim in range(weights.ndim) if dim != axis)
    largest = np.abs(weights).max(axis=others if is_per_channel else None)
    scale = np.maximum(largest / np.float32(_LARGEST), np.float32(_SMALLEST_SCALE))
    shape = [-1 if dim == axis else 1 for dim in range(weights.ndim)]
    steps = scale.reshape(shape) if is_per_channel else scale
    codes = np.clip(np.rint(weights / steps), -_LARGEST, _LARGEST)
    return codes.astype(np.int8), scale.astype(np.float32)


def watched_values(model: ir.Model) -> list[str]:
    """The tensors whose ranges `quantise` needs; none when there are no weights to round.

    UnsupportedModelError when the operators are too old.
    """
    _check_opset(model)
    if not any(_reads_weights(node) for node in model.graph):
        return []
    return [value.name for value in _activations(model)]


def quantise(
    model: ir.Model, ranges: Mapping[str, tuple[float, float]], recipe: GraphRecipe
) -> None:
    """Rewrite the network in place, given the ranges of `watched_values`."""
    graph = model.graph
    activations = _activations(model)
    steps = {
        value.name: Steps.over(*ranges[value.name], recipe.activations) for value in activations
    }
    for node in graph:
        # Largest values come from the input, so its codes can be compared as they are.
        if node.op_type == "MaxPool" and node.inputs[0].name in steps:
            steps[node.outputs[0].name] = steps[node.inputs[0].name]
    for node in [node for node in graph if _reads_weights(node)]:
        _quantise_weights(graph, node, steps, is_per_channel=recipe.granularity == "channel")
    for value in activations:
        _round_trip(graph, value, steps[value.name])
        _drop_relu(graph, value, steps[value.name])


def _activations(model: ir.Model) -> list[ir.Value]:
    """Float tensors that a rounded node reads or writes, those behind a Relu instead of before."""
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        is_rounded = _reads_weights(node) or (node.op_type in _OTHERS and node.domain == "")
        if not is_rounded:
            continue
        inputs = node.inputs[:1] if _reads_weights(node) else node.inputs
        for value in [*inputs, _after_relu(node.outputs[0])]:
            if value is not None and _is_activation(value):
                found[value.name] = value
    return list(found.values())


def _reads_weights(node: ir.Node) -> bool:
    if node.op_type not in _WITH_WEIGHTS or node.domain != "" or len(node.inputs) < 2:
        return False
    weights = None if node.inputs[1] is None else constant_of(node.inputs[1])
    if weights is None or weights.dtype != np.float32:
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return (bias is None or constant_of(bias) is not None) and _has_plain_factors(node)


def _has_plain_factors(node: ir.Node) -> bool:
    """Whether a Gemm multiplies by nothing but its matrices."""
    factors = [
        node.attributes[name].as_float() for name in ("alpha", "beta") if name in node.attributes
    ]
    is_transposed = "transA" in node.attributes and node.attributes["transA"].as_int() != 0
    return all(factor == 1.0 for factor in factors) and not is_transposed


def _is_activation(value: ir.Value) -> bool:
    is_float = value.dtype in (None, ir.DataType.FLOAT)
    return is_float and constant_of(value) is None and not value.is_graph_output()


def _after_relu(value: ir.Value) -> ir.Value:
    readers = value.uses()
    if len(readers) == 1 and readers[0].node.op_type == "Relu" and not value.is_graph_output():
        return readers[0].node.outputs[0]
    return value


def _quantise_weights(
    graph: ir.Graph, node: ir.Node, steps: Mapping[str, Steps], *, is_per_channel: bool
) -> None:
    source, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    weights = np.asarray(constant_of(source), np.float32)
    axis = _output_axis(node, weights.ndim)
    codes, scale = quantised_weights(weights, axis, is_per_channel=is_per_channel)
    name = f"{node.outputs[0].name}.weight"
    node.replace_input_with(1, _dequantised(graph, node, name, codes, scale, axis))
    if bias is not None:
        values = np.asarray(constant_of(bias), np.float64)
        product = scale.astype(np.float64) * float(steps[node.inputs[0].name].scale)
        limits = np.iinfo(np.int32)
        rounded = np.clip(np.rint(values / product), limits.min, limits.max).astype(np.int32)
        name = f"{node.outputs[0].name}.bias"
        stored = product.astype(np.float32)
        node.replace_input_with(2, _dequantised(graph, node, name, rounded, stored, 0))


def _output_axis(node: ir.Node, num_dims: int) -> int:
    if node.op_type == "Conv":
        return 0
    is_transposed = "transB" in node.attributes and node.attributes["transB"].as_int() != 0
    return 0 if is_transposed else num_dims - 1


def _dequantised(
    graph: ir.Graph,
    reader: ir.Node,
    name: str,
    codes: NDArray[np.generic],
    scale: NDArray[np.float32],
    axis: int,
) -> ir.Value:
    """The values of codes, computed before `reader`."""
    inputs = [
        constant(graph, f"{name}.codes", codes),
        constant(graph, f"{name}.scale", scale),
        constant(graph, f"{name}.zero", np.zeros_like(scale, codes.dtype)),
    ]
    node = ir.node("DequantizeLinear", inputs, {"axis": axis} if scale.ndim else None)
    node.outputs[0].name = f"{name}.values"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(reader, node)
    return node.outputs[0]


def _round_trip(graph: ir.Graph, value: ir.Value, steps: Steps) -> None:
    """Let all readers of a tensor read it rounded."""
    scale = constant(graph, f"{value.name}.scale", np.asarray(steps.scale))
    zero = constant(graph, f"{value.name}.zero", steps.zero)
    uses = list(value.uses())
    down = ir.node("QuantizeLinear", [value, scale, zero])
    up = ir.node("DequantizeLinear", [down.outputs[0], scale, zero])
    down.outputs[0].name, up.outputs[0].name = f"{value.name}.codes", f"{value.name}.rounded"
    up.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [down, up])
    else:
        graph.insert_after(producer, [down, up])
    for use in uses:
        use.node.replace_input_with(use.idx, up.outputs[0])


def _drop_relu(graph: ir.Graph, value: ir.Value, steps: Steps) -> None:
    """Remove the Relu before a rounding whose smallest code stands for zero: it clips as well."""
    relu = value.producer()
    if relu is None or relu.op_type != "Relu" or steps.zero.dtype != np.uint8 or steps.zero != 0:
        return
    value.replace_all_uses_with(relu.inputs[0])
    graph.remove(relu, safe=True)


def _check_opset(model: ir.Model) -> None:
    version = model.opset_imports.get("", 0)
    if version < MIN_OPSET:
        message = (
            f"the network uses version {version} of the ONNX operators; 8 bits with a scale for "
            f"each channel need {MIN_OPSET}, export it anew"
        )
        raise UnsupportedModelError(message)
