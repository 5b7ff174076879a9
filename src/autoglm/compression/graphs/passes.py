# mypy: allow-subclassing-any
# onnx-ir is not installed where the gates run, so its classes are Any to mypy.
"""Passes that leave a network's results as they are, in onnx-ir: it gets fewer and larger steps.

Dead nodes go, what depends on constants alone is computed, and a normalisation with fixed
statistics after a convolution becomes part of its weights.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from autoglm.compression.graphs.runtime import computed

# A constant that is larger than what it is computed from costs memory and file size.
_MAX_GROWTH_BYTES = 1 << 20
_RANDOM = ("RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


def remove_dead(model: ir.Model) -> None:
    """Remove nodes, constants and functions that no output needs, and nodes that do nothing."""
    for step in (
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)


class FoldConstants(ir.passes.InPlacePass):
    """Computes nodes all of whose inputs are known."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in order of execution, so that one fold makes the next possible."""
        num_folded = 0
        for node in list(model.graph):
            arrays = self._known_inputs(node)
            if arrays is None or not self._may_fold(node):
                continue
            results = computed(node, arrays, model.opset_imports)
            if not all(_is_number(result) for result in results):
                continue
            sizes = sum(0 if array is None else array.nbytes for array in arrays)
            if sum(result.nbytes for result in results) > sizes + _MAX_GROWTH_BYTES:
                continue
            for old, result in zip(node.outputs, results, strict=True):
                replace_by_constant(model.graph, old, np.asarray(result))
            model.graph.remove(node, safe=True)
            num_folded += 1
        return ir.passes.PassResult(model, num_folded > 0)

    def _known_inputs(self, node: ir.Node) -> list[NDArray[np.generic] | None] | None:
        if node.op_type == "CastLike" and len(node.inputs) == 2:
            value, like = node.inputs
            known = constant_of(value)
            # Only the type of the second input counts.
            if known is not None and like is not None and like.dtype is not None:
                return [known, np.zeros(1, like.dtype.numpy())]
            return None
        arrays = [None if value is None else constant_of(value) for value in node.inputs]
        for value, array in zip(node.inputs, arrays, strict=True):
            if value is not None and array is None:
                return None
        return arrays

    def _may_fold(self, node: ir.Node) -> bool:
        has_graph = any(attr.type in _GRAPH_ATTRIBUTES for attr in node.attributes.values())
        is_output = any(value.is_graph_output() for value in node.outputs)
        is_known = node.domain in ("", "ai.onnx") and bool(node.inputs)
        return is_known and not has_graph and not is_output and node.op_type not in _RANDOM


class FuseNormalisation(ir.passes.InPlacePass):
    """Makes BatchNormalization a part of the weights and bias of the convolution before it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse where nothing else reads the convolution, and all parameters are constants."""
        num_fused = 0
        for norm in list(model.graph):
            if norm.op_type == "BatchNormalization" and self._fuse(model.graph, norm):
                num_fused += 1
        return ir.passes.PassResult(model, num_fused > 0)

    def _fuse(self, graph: ir.Graph, norm: ir.Node) -> bool:
        conv = norm.inputs[0].producer()
        if conv is None or conv.op_type != "Conv" or not _is_read_only_by(conv.outputs[0], norm):
            return False
        is_training = (
            "training_mode" in norm.attributes and norm.attributes["training_mode"].as_int()
        )
        parameters = [constant_of(value) for value in (conv.inputs[1], *norm.inputs[1:])]
        bias_value = conv.inputs[2] if len(conv.inputs) > 2 else None
        bias = None if bias_value is None else constant_of(bias_value)
        if is_training or any(array is None for array in parameters):
            return False
        if bias_value is not None and bias is None:
            return False
        weights, gain, shift, mean, variance = (np.asarray(a, np.float64) for a in parameters)
        eps = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
        scale = gain / np.sqrt(variance + eps)
        before = np.zeros_like(mean) if bias is None else bias.astype(np.float64)
        dtype = parameters[0].dtype if parameters[0] is not None else np.float32
        per_output = scale.reshape(-1, *[1] * (weights.ndim - 1))
        fused = (weights * per_output).astype(dtype)
        fused_bias = ((before - mean) * scale + shift).astype(dtype)
        name = conv.outputs[0].name
        inputs = [conv.inputs[0], constant(graph, f"{name}.weight", fused)]
        inputs.append(constant(graph, f"{name}.bias", fused_bias))
        node = ir.Node("", "Conv", inputs, conv.attributes.values(), num_outputs=1, name=conv.name)
        graph.insert_before(conv, node)
        take_over(norm.outputs[0], node.outputs[0])
        graph.remove([norm, conv], safe=True)
        return True


_GRAPH_ATTRIBUTES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def constant_of(value: ir.Value) -> NDArray[np.generic] | None:
    """The array of an initializer that no input of the graph may replace."""
    if not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer, under a name that is free."""
    free, number = name, 0
    while free in graph.initializers:
        number += 1
        free = f"{name}.{number}"
    tensor = ir.tensor(np.ascontiguousarray(array), name=free)
    value = ir.val(free, tensor.dtype, tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_by_constant(graph: ir.Graph, old: ir.Value, array: NDArray[np.generic]) -> None:
    """Let all readers of a value read a constant."""
    old.replace_all_uses_with(constant(graph, f"{old.name}.value", array))


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let a value have the name, type and readers of another."""
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.name = f"{old.name}.before"
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def num_weights(model: ir.Model) -> int:
    """Numbers stored in the network."""
    return sum(math.prod(value.shape.numpy()) for value in model.graph.initializers.values())


def _is_number(result: object) -> bool:
    """Not a sequence, a map or texts."""
    return isinstance(result, np.ndarray) and result.dtype.kind in "biuf"


def _is_read_only_by(value: ir.Value, node: ir.Node) -> bool:
    readers = value.uses()
    return len(readers) == 1 and readers[0].node is node and not value.is_graph_output()
