"""What values the tensors of a network take on calibration inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autoglm.compression.graphs.runtime import Array, open_session, run
from autoglm.errors import InputError

MAX_INPUTS_BYTES = 1 << 30
_BATCH = 32

Inputs = dict[str, Array]


def read_inputs(path: Path, model: ir.Model) -> Inputs:
    """The arrays of an .npz file, one for each input of the network, samples first.

    A .npy file serves a network with one input. InputError says what does not fit.
    """
    arrays = _arrays(path, model)
    for value in model.graph.inputs:
        array = arrays.get(value.name)
        if array is None:
            message = f"{path}: has no array '{value.name}', which the network reads"
            raise InputError(message)
        _check(path, value, array)
    counts = {name: len(arrays[name]) for name in (value.name for value in model.graph.inputs)}
    if len(set(counts.values())) != 1:
        message = f"{path}: the inputs have different numbers of samples: {counts}"
        raise InputError(message)
    return {name: arrays[name] for name in counts}


def batches(inputs: Inputs) -> list[Inputs]:
    """The samples in pieces of bounded size."""
    num_samples = len(next(iter(inputs.values())))
    return [
        {name: array[start : start + _BATCH] for name, array in inputs.items()}
        for start in range(0, num_samples, _BATCH)
    ]


def measured_ranges(
    model: ir.Model, names: Sequence[str], inputs: Inputs, *, covered: float
) -> Mapping[str, tuple[float, float]]:
    """The lowest and highest value of these tensors, on the mean of the batches.

    `covered` is the share of a batch's values between them.
    """
    outside = model.graph.outputs[:]
    watched = model.clone()
    by_name = {value.name: value for node in watched.graph for value in node.outputs}
    by_name |= {value.name: value for value in watched.graph.inputs}
    known = {value.name for value in outside}
    watched.graph.outputs.extend(by_name[name] for name in names if name not in known)
    session = open_session(watched, is_optimised=False)
    tail = (1.0 - covered) / 2.0
    lows: dict[str, list[float]] = {name: [] for name in names}
    highs: dict[str, list[float]] = {name: [] for name in names}
    for batch in batches(inputs):
        for name, array in zip(names, run(session, batch, names), strict=True):
            values = np.asarray(array, np.float32).reshape(-1)
            if not np.isfinite(values).all():
                message = f"the tensor '{name}' holds NaN or infinity on the calibration inputs"
                raise InputError(message)
            lows[name].append(float(np.quantile(values, tail)))
            highs[name].append(float(np.quantile(values, 1.0 - tail)))
    return {name: (float(np.mean(lows[name])), float(np.mean(highs[name]))) for name in names}


def _arrays(path: Path, model: ir.Model) -> Mapping[str, NDArray[np.generic]]:
    try:
        size = path.stat().st_size
        if size > MAX_INPUTS_BYTES:
            message = f"{path}: has {size} bytes, calibration inputs at most {MAX_INPUTS_BYTES}"
            raise InputError(message)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {model.graph.inputs[0].name: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError) as err:
        message = f"{path}: is not an .npy or .npz file of numbers: {err}"
        raise InputError(message) from err


def _check(path: Path, value: ir.Value, array: Array) -> None:
    wanted = [dim if isinstance(dim, int) else None for dim in value.shape or ()]
    is_fitting = len(wanted) == array.ndim and all(
        dim is None or dim == size for dim, size in zip(wanted[1:], array.shape[1:], strict=True)
    )
    dtype = value.dtype.numpy() if value.dtype is not None else array.dtype
    if not is_fitting or array.dtype != dtype or not len(array):
        shape = ["any" if dim is None else dim for dim in wanted]
        message = (
            f"{path}: '{value.name}' has shape {list(array.shape)} and type {array.dtype}, the "
            f"network reads {shape} of {dtype}"
        )
        raise InputError(message)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        message = f"{path}: '{value.name}' holds NaN or infinity"
        raise InputError(message)
