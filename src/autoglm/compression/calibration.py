"""Token sequences of a calibration text and their hidden states before the first layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.recipe import CalibrationSize
from autoglm.engine.tokenizer import Tokenizer
from autoglm.errors import InputError, ModelNotFoundError
from autoglm.inputs.text import read_text
from autoglm.modelfile.files import resolve_inside
from autoglm.modelfile.tokenizer import TOKENIZER_NAME

MAX_TEXT_BYTES = 256 << 20


def read_sequences(
    text: str | Path, model: Path, *, vocab_size: int, size: CalibrationSize
) -> NDArray[np.int64]:
    """Token ids [num_sequences, sequence_tokens], spread evenly over a text file.

    A text shorter than asked for gives fewer sequences, or one shorter sequence. InputError when
    it has less than two tokens, ModelNotFoundError when the model has no tokenizer.
    """
    ids = read_ids(text, model, vocab_size=vocab_size)
    if len(ids) < 2:
        message = f"{text}: has {len(ids)} token; calibration needs at least 2"
        raise InputError(message)
    return spread(ids, size)


def read_ids(text: str | Path, model: Path, *, vocab_size: int) -> list[int]:
    """All token ids of a text file; ModelNotFoundError when the model has no tokenizer."""
    if not (model / TOKENIZER_NAME).exists():
        message = f"{model}: has no {TOKENIZER_NAME}, so no text can be read to calibrate it"
        raise ModelNotFoundError(message)
    tokenizer = Tokenizer.from_file(resolve_inside(model, TOKENIZER_NAME), vocab_size=vocab_size)
    return tokenizer.encode(read_text(str(text), max_bytes=MAX_TEXT_BYTES))


def spread(ids: Sequence[int], size: CalibrationSize) -> NDArray[np.int64]:
    """Sequences from the beginning to the end of `ids`, at even distances."""
    num_tokens = min(size.sequence_tokens, len(ids))
    num_sequences = min(size.num_sequences, len(ids) // num_tokens)
    starts = np.linspace(0, len(ids) - num_tokens, num_sequences).astype(np.int64)
    return np.array([ids[start : start + num_tokens] for start in starts], np.int64)


def digest(ids: NDArray[np.int64]) -> str:
    """What the sequences are, in short."""
    return hashlib.sha256(repr(ids.shape).encode() + ids.tobytes()).hexdigest()
