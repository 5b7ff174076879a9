"""ONNX network to a smaller one: passes that keep its results, then perhaps 8 bits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoglm.compression.graphs.recipe import GraphRecipe, load_graph_recipe
from autoglm.errors import (
    ModelFileError,
    ModelNotFoundError,
    StorageError,
    UnsupportedModelError,
    UsageError,
    require,
)
from autoglm.modelfile.files import resolve_inside
from autoglm.modelfile.safetensors_writer import storage_error
from autoglm.modelfile.staging import sync_directory, write_file

if TYPE_CHECKING:
    import onnx_ir as ir

DEFAULT_GRAPH_RECIPE = "graph-int8"
# A file of protocol buffers cannot be larger than 2 GiB.
MAX_WEIGHTS_BYTES = (2 << 30) - (64 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphCompression:
    """What was written. `largest_difference` is that of outputs on the calibration inputs, as a
    part of the largest output; None without inputs.
    """

    path: Path
    recipe: str
    nodes_before: int
    nodes: int
    source_bytes: int
    network_bytes: int
    largest_difference: float | None


def compress_graph(
    model: str | Path,
    recipe: str | Path | GraphRecipe = DEFAULT_GRAPH_RECIPE,
    *,
    out: str | Path,
    calibration: str | Path | None = None,
) -> GraphCompression:
    """Write the network `out` from the ONNX file `model` by a recipe, its name or its file.

    `calibration` is an .npz file with an array for each input of the network, or .npy when there is
    one; recipes of 8 bits need it. Raises UsageError for the recipe, InputError for the inputs,
    ModelFileError and its kinds for the network, StorageError for `out`.
    """
    chosen = recipe if isinstance(recipe, GraphRecipe) else load_graph_recipe(recipe)
    if chosen.needs_calibration and calibration is None:
        message = (
            f"recipe {chosen.name} measures ranges; give inputs in an .npz file by --calibration"
        )
        raise UsageError(message)
    target = Path(os.path.realpath(out))
    if target.exists():
        message = f"{target}: exists already; remove it or name another place"
        raise StorageError(message)
    source = _load(Path(model))
    before = source.graph.num_nodes()
    smaller, difference = _compressed(source, chosen, calibration)
    data = require("onnx_ir", extra="onnx").to_proto(smaller).SerializeToString()
    _write(target, data)
    return GraphCompression(
        path=target,
        recipe=chosen.name,
        nodes_before=before,
        nodes=smaller.graph.num_nodes(),
        source_bytes=Path(model).stat().st_size,
        network_bytes=len(data),
        largest_difference=difference,
    )


def _compressed(
    source: ir.Model, recipe: GraphRecipe, calibration: str | Path | None
) -> tuple[ir.Model, float | None]:
    from autoglm.compression.graphs import passes, quantise, ranges
    from autoglm.compression.graphs.runtime import open_session

    open_session(source)
    _check_weights(source)
    inputs = None if calibration is None else ranges.read_inputs(Path(calibration), source)
    model = source.clone()
    passes.remove_dead(model)
    passes.FoldConstants()(model)
    passes.FuseNormalisation()(model)
    passes.remove_dead(model)
    if recipe.weights == "int8" and inputs is not None:
        names = quantise.watched_values(model)
        if not names:
            message = "the network has no convolution or matrix with constant weights to round"
            raise ModelFileError(message)
        measured = ranges.measured_ranges(model, names, inputs, covered=recipe.covered)
        quantise.quantise(model, measured, recipe)
        passes.remove_dead(model)
    open_session(model)
    return model, None if inputs is None else _difference(source, model, inputs)


def _difference(source: ir.Model, model: ir.Model, inputs: dict[str, np.ndarray]) -> float:
    from autoglm.compression.graphs.ranges import batches
    from autoglm.compression.graphs.runtime import open_session, run

    sessions = [open_session(source), open_session(model)]
    difference = largest = 0.0
    for batch in batches(inputs):
        for whole, smaller in zip(*(run(session, batch) for session in sessions), strict=True):
            if np.asarray(whole).dtype.kind == "f":
                difference = max(difference, float(np.abs(whole - smaller).max()))
                largest = max(largest, float(np.abs(whole).max()))
    return difference / (largest or 1.0)


def _load(path: Path) -> ir.Model:
    ir = require("onnx_ir", extra="onnx")
    require("onnxruntime", extra="onnx")
    if not path.is_file():
        message = f"{path}: there is no such file"
        raise ModelNotFoundError(message)
    try:
        model = ir.load(path)
        _read_beside(model, path.parent)
        ir.to_proto(model)
    except ModelFileError:
        raise
    except Exception as err:  # a broken file ends in errors of many kinds
        reason = " ".join(str(err).split())[:200]
        message = f"{path}: is not an ONNX network that can be read: {reason}"
        raise ModelFileError(message) from err
    return model


def _read_beside(model: ir.Model, directory: Path) -> None:
    """Read tensors that lie in files of the network's directory; elsewhere none may lie."""
    ir = require("onnx_ir", extra="onnx")
    num_bytes = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        num_bytes += tensor.nbytes
        if num_bytes > MAX_WEIGHTS_BYTES:
            message = f"the network has more than {MAX_WEIGHTS_BYTES} bytes of weights"
            raise UnsupportedModelError(message)
        if isinstance(tensor, ir.ExternalTensor):
            resolve_inside(directory, os.fspath(tensor.location))
            value.const_value = ir.tensor(tensor.numpy().copy(), name=name)


def _check_weights(model: ir.Model) -> None:
    for name, value in model.graph.initializers.items():
        array = value.const_value.numpy()
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            message = f"tensor '{name[:200]}' holds NaN or infinity"
            raise ModelFileError(message)


def _write(target: Path, data: bytes) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(partial, data)
        partial.rename(target)
        sync_directory(target.parent)
    except OSError as err:
        raise storage_error(target, err) from err
    finally:
        partial.unlink(missing_ok=True)
