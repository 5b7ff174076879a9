"""What a compression will write, decided before the first byte: sizes, formats, small files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.budget import formats_within, remembered
from autoglm.compression.calibrated import refuse_experts
from autoglm.compression.calibration import read_sequences
from autoglm.compression.depth import importance, num_removed, without_layers
from autoglm.compression.inputs import with_inputs, with_most_inputs
from autoglm.compression.matrices import may_prune
from autoglm.compression.pruning import check_pruning
from autoglm.compression.recipe import Recipe
from autoglm.compression.source import Source
from autoglm.compression.structure import config_changes, smaller_graph
from autoglm.errors import UsageError
from autoglm.modelfile.arch import MOST_PRUNED_COLS, PRUNED_FORMATS, parse_architecture
from autoglm.modelfile.bundle import CONFIG_NAME
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.convert import bundle_config, small_files
from autoglm.modelfile.layout import Matrix
from autoglm.modelfile.packing import config_text
from autoglm.modelfile.passes import Graph, packing_of, run_passes, set_formats

RECIPE_NAME = "recipe.toml"
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`graph` is what the bundle will hold, `whole` the same before layers get smaller.

    `ids` are the calibration sequences that writing needs; `files` are the small files.
    """

    recipe: Recipe
    whole: Graph
    graph: Graph
    ids: NDArray[np.int64] | None
    files: Mapping[str, bytes]


def make_plan(
    source: Source, recipe: Recipe, calibration: str | Path | None, budget_mib: float | None
) -> Plan:
    """Decide everything; UsageError when the recipe does not fit the model or the budget."""
    _check(recipe, calibration, budget_mib)
    arch = parse_architecture(source.fields, recipe.weights)
    files = small_files(source.directory, source.fields, arch)
    graph = set_formats(run_passes(arch, source.checkpoint, recipe.passes), recipe.formats)
    ids = None
    if calibration is not None:
        vocab_size = arch.config.vocab_size
        ids = read_sequences(
            calibration, source.directory, vocab_size=vocab_size, size=recipe.calibration
        )
    text = recipe.text
    if budget_mib is not None and ids is not None:
        refuse_experts(arch.config, recipe.name)
        limit = int(budget_mib * MIB)
        largest = with_most_inputs(graph, recipe)
        graph = set_formats(graph, formats_within(largest, source.checkpoint, ids, limit))
        text = remembered(text, budget_mib)
    whole, changes = graph, dict[str, object]()
    if recipe.structure is not None and ids is not None:
        whole = _fewer_layers(whole, recipe, source.checkpoint, ids)
        graph = smaller_graph(whole, recipe.structure)
        changes = config_changes(graph.arch.config)
    graph = with_inputs(_dense_where_wide(graph), whole, source.checkpoint, recipe)
    for tensor in graph.tensors:
        if recipe.pruning and isinstance(tensor, Matrix) and may_prune(tensor):
            check_pruning(recipe.pruning, tensor.name, tensor.cols)
    packing = packing_of(graph, recipe.passes, activation_bits=recipe.activation_bits)
    config = {**bundle_config(source.config, graph), **changes}
    files |= {CONFIG_NAME: config_text(config, packing), RECIPE_NAME: text.encode()}
    return Plan(
        recipe=recipe,
        whole=whole,
        graph=graph,
        ids=ids if recipe.needs_calibration else None,
        files=files,
    )


def _dense_where_wide(graph: Graph) -> Graph:
    """Matrices too wide for the formats without zeros keep them, in int8."""
    wide = [
        tensor.name
        for tensor in graph.tensors
        if isinstance(tensor, Matrix)
        and tensor.weights in PRUNED_FORMATS
        and tensor.cols > MOST_PRUNED_COLS
    ]
    return set_formats(graph, dict.fromkeys(wide, "int8"))


def _check(recipe: Recipe, calibration: str | Path | None, budget_mib: float | None) -> None:
    needs_text = recipe.needs_calibration or budget_mib is not None
    if needs_text and calibration is None:
        what = f"recipe {recipe.name}" if budget_mib is None else "a budget"
        message = (
            f"{what} looks at activations; name a text of the kind the model will read with "
            "--calibration FILE"
        )
        raise UsageError(message)
    if calibration is not None and not needs_text:
        message = f"recipe {recipe.name} does not look at activations; leave out --calibration"
        raise UsageError(message)
    if budget_mib is not None and (recipe.pruning is not None or recipe.structure is not None):
        message = f"recipe {recipe.name} removes weights; a budget chooses formats of all of them"
        raise UsageError(message)


def _fewer_layers(
    graph: Graph, recipe: Recipe, checkpoint: Checkpoint, ids: NDArray[np.int64]
) -> Graph:
    share = 0.0 if recipe.structure is None else recipe.structure.layers
    if num_removed(graph.arch.config.num_layers, share) == 0:
        return graph
    refuse_experts(graph.arch.config, recipe.name)
    return without_layers(graph, importance(graph, checkpoint, ids), share)
