"""Graph passes of a conversion: named steps that leave the model's results as they are.

A pass maps a Graph, what the bundle will hold and how it is made from the checkpoint, to another.
None reads more than it must: the weights flow when the result is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from autoglm.errors import UnsupportedModelError, UsageError
from autoglm.modelfile.arch import Architecture, WeightFormat
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    MERGE_GATE_UP,
    MERGE_QKV,
    Matrix,
    Merge,
    Rows,
    Tensors,
    Vector,
    merge,
    source_tensors,
    split_name,
)
from autoglm.modelfile.packing import DEFAULT_ACTIVATION_BITS, Packing

# The modules that read each norm's output, before and after the merges.
_MLP_READERS = [
    f"{part}.{module}"
    for part in ("mlp", "moe.experts", "moe.shared")
    for module in ("gate", "up", "gate_up")
]
_READERS = {
    "input_norm": ["attn.q", "attn.k", "attn.v", "attn.qkv"],
    "mlp.norm": [*_MLP_READERS, "moe.router"],
}
_NORM_OF = {reader: norm for norm, readers in _READERS.items() for reader in readers}
_WRITERS = ("attn.o", "mlp.down", "moe.experts.down", "moe.shared.down")


@dataclass(frozen=True, slots=True)
class Graph:
    """What a bundle will hold, and checkpoint tensors that no step reads."""

    arch: Architecture
    tensors: Tensors
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One rewrite of the graph. The engine cannot run what lacks a required one."""

    name: str
    summary: str
    run: Callable[[Graph, Checkpoint], Graph]
    is_default: bool = True
    is_required: bool = False


def run_passes(arch: Architecture, checkpoint: Checkpoint, names: Sequence[str]) -> Graph:
    """The graph of a checked checkpoint after these passes, in the order of PASSES.

    UsageError when a pass is unknown, missing or lacks what it builds on, UnsupportedModelError
    when the model cannot have it.
    """
    for name in names:
        if name not in PASS_NAMES:
            message = f"unknown pass {name[:80]!r}; there are {', '.join(PASS_NAMES)}"
            raise UsageError(message)
    graph = Graph(arch, source_tensors(arch), checkpoint.check(arch, source_tensors(arch)))
    for step in PASSES:
        if step.name in names:
            graph = step.run(graph, checkpoint)
        elif step.is_required:
            message = f"the engine cannot run a model without the pass {step.name}; include it"
            raise UsageError(message)
    if graph.unread:
        message = (
            f"no step reads tensor '{graph.unread[0][:200]}', so a bundle has no place for it; "
            "include the pass drop-dead"
        )
        raise UsageError(message)
    return graph


def set_formats(graph: Graph, formats: Mapping[str, WeightFormat]) -> Graph:
    """Matrices whose names match a pattern in its format, the last match counting.

    UsageError when a pattern matches none.
    """
    for pattern in formats:
        if not any(isinstance(t, Matrix) and fnmatchcase(t.name, pattern) for t in graph.tensors):
            message = f"no matrix of this model is called {pattern[:80]!r}"
            raise UsageError(message)

    def in_format(tensor: Matrix | Vector) -> Matrix | Vector:
        if isinstance(tensor, Vector):
            return tensor
        matching = [weights for name, weights in formats.items() if fnmatchcase(tensor.name, name)]
        return replace(tensor, weights=matching[-1]) if matching else tensor

    return replace(graph, tensors=tuple(map(in_format, graph.tensors)))


def packing_of(
    graph: Graph, passes: Sequence[str], *, activation_bits: int = DEFAULT_ACTIVATION_BITS
) -> Packing:
    """What the bundle's config.json says of how it was made."""
    usual = graph.arch.config.weights
    matrices = [tensor for tensor in graph.tensors if isinstance(tensor, Matrix)]
    return Packing(
        weights=usual,
        formats={matrix.name: matrix.weights for matrix in matrices if matrix.weights != usual},
        passes=tuple(name for name in PASS_NAMES if name in passes),
        activation_bits=activation_bits,
        inputs={matrix.name: matrix.inputs for matrix in matrices if matrix.inputs},
        offsets=tuple(matrix.name for matrix in matrices if matrix.has_offset),
    )


def _drop_dead(graph: Graph, checkpoint: Checkpoint) -> Graph:
    def is_dead(tensor: Matrix | Vector) -> bool:
        if isinstance(tensor, Matrix) or not tensor.is_bias:
            return False
        return all(checkpoint.is_zero(rows) for rows in tensor.pieces)

    kept = tuple(tensor for tensor in graph.tensors if not is_dead(tensor))
    return replace(graph, tensors=kept, unread=())


def _merge_pass(merges: tuple[Merge, ...]) -> Callable[[Graph, Checkpoint], Graph]:
    return lambda graph, checkpoint: replace(graph, tensors=merge(graph.tensors, merges))


def _fold_norm_gain(graph: Graph, checkpoint: Checkpoint) -> Graph:
    gains = _gains(graph.tensors)
    has_own_head = not graph.arch.config.tie_word_embeddings

    def folded(tensor: Matrix | Vector) -> Matrix | Vector:
        prefix, module, _ = split_name(tensor.name)
        if module in _READERS or (tensor.name == FINAL_NORM and has_own_head):
            return replace(tensor, is_ones=True) if isinstance(tensor, Vector) else tensor
        if module in _NORM_OF and not tensor.name.endswith(".bias"):
            return replace(tensor, column_gain=gains[f"{prefix}{_NORM_OF[module]}.weight"])
        if tensor.name == HEAD:
            return replace(tensor, column_gain=gains[FINAL_NORM])
        return tensor

    return replace(graph, tensors=tuple(map(folded, graph.tensors)))


def _gains(tensors: Tensors) -> dict[str, Rows]:
    return {
        tensor.name: tensor.pieces[0]
        for tensor in tensors
        if tensor.name == FINAL_NORM or split_name(tensor.name)[1] in _READERS
    }


def _rotate(graph: Graph, checkpoint: Checkpoint) -> Graph:
    config = graph.arch.config
    if config.sandwich_norms:
        message = (
            f"{graph.arch.name} scales what is added to the residual stream by gains of its own, "
            "which no rotation passes through; leave out the pass rotate"
        )
        raise UnsupportedModelError(message)
    if config.tie_word_embeddings:
        graph = _untie(graph)
    norms = [t for t in graph.tensors if t.name in _gains(graph.tensors)]
    if not all(isinstance(norm, Vector) and norm.is_ones for norm in norms):
        message = "the pass rotate builds on fold-norm-gain; include it"
        raise UsageError(message)
    return replace(graph, tensors=tuple(map(_rotated, graph.tensors)))


def _untie(graph: Graph) -> Graph:
    """With a head of its own, into which the last gain can go."""
    config = replace(graph.arch.config, tie_word_embeddings=False)
    gain = _gains(graph.tensors)[FINAL_NORM]
    tensors: list[Matrix | Vector] = []
    for tensor in graph.tensors:
        if tensor.name == FINAL_NORM and isinstance(tensor, Vector):
            tensors.append(replace(tensor, is_ones=True))
        else:
            tensors.append(tensor)
    embedding = next(tensor for tensor in tensors if tensor.name == EMBEDDING)
    tensors.append(replace(embedding, name=HEAD, column_gain=gain))
    return replace(graph, arch=replace(graph.arch, config=config), tensors=tuple(tensors))


def _rotated(tensor: Matrix | Vector) -> Matrix | Vector:
    _, module, suffix = split_name(tensor.name)
    if module in _WRITERS:
        return replace(tensor, rotated="columns" if suffix == ".bias" else "rows")
    if tensor.name in (EMBEDDING, HEAD) or (module in _NORM_OF and suffix != ".bias"):
        return replace(tensor, rotated="columns")
    return tensor


PASSES = (
    Pass(
        name="merge-qkv",
        summary="q, k and v as one matrix",
        run=_merge_pass(MERGE_QKV),
        is_required=True,
    ),
    Pass(
        name="merge-gate-up",
        summary="gate and up as one matrix of alternating rows",
        run=_merge_pass(MERGE_GATE_UP),
        is_required=True,
    ),
    Pass(
        name="drop-dead",
        summary="leave out what no step reads, and biases of zeros",
        run=_drop_dead,
    ),
    Pass(
        name="fold-norm-gain",
        summary="move the gains of norms into the matrices behind them",
        run=_fold_norm_gain,
        is_default=False,
    ),
    Pass(
        name="rotate",
        summary="turn the residual stream by a random Hadamard matrix",
        run=_rotate,
        is_default=False,
    ),
)
PASS_NAMES = tuple(step.name for step in PASSES)
DEFAULT_PASSES = tuple(step.name for step in PASSES if step.is_default)
