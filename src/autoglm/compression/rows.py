"""The rows of a checkpoint's matrix as floats that are checked to be finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoglm.compression.codes import Floats
from autoglm.errors import ModelFileError
from autoglm.modelfile.checkpoint import Checkpoint
from autoglm.modelfile.layout import Matrix
from autoglm.modelfile.pack import float_rows


def float_chunks(matrix: Matrix, checkpoint: Checkpoint) -> Iterator[tuple[int, Floats]]:
    """Source bytes read and the next rows, after all passes; ModelFileError names the tensor."""
    for num_read, data in float_rows(matrix, checkpoint):
        weights = np.frombuffer(data, np.float32).reshape(-1, matrix.cols)
        if not np.isfinite(weights).all():
            message = f"tensor {_source(matrix)} holds NaN or infinity"
            raise ModelFileError(message)
        yield num_read, weights


def first_rows(matrix: Matrix, checkpoint: Checkpoint) -> Floats:
    """Those of the first chunk."""
    return next(float_chunks(matrix, checkpoint))[1]


def divided(weights: Floats, scale: Floats, matrix: Matrix) -> Floats:
    """The rows with their columns divided; ModelFileError where that is beyond all floats."""
    with np.errstate(over="ignore"):
        result: Floats = weights / scale
    if not np.isfinite(result).all():
        message = (
            f"tensor {_source(matrix)} holds weights up to {float(np.abs(weights).max()):.3g}, "
            "too large for scales of its inputs; use a recipe without 'input_scales'"
        )
        raise ModelFileError(message)
    return result


def _source(matrix: Matrix) -> str:
    names = sorted({rows.source for rows in matrix.pieces})
    return f"'{names[0]}' or one packed with it"
