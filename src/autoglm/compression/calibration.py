"""Token sequences of a calibration text, or of rows in the model's chat form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.exchanges import SUFFIX, RowTokens, row_tokens
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
    """Token ids [num_sequences, sequence_tokens], spread evenly over a file.

    A text shorter than asked for gives fewer sequences, or one shorter sequence. InputError when
    it has less than two tokens, ModelNotFoundError when the model has no tokenizer.
    """
    tokens = read_tokens(text, model, vocab_size=vocab_size)
    if len(tokens.ids) < 2:
        message = f"{text}: has {len(tokens.ids)} token; calibration needs at least 2"
        raise InputError(message)
    return spread(tokens, size)


def read_tokens(text: str | Path, model: Path, *, vocab_size: int) -> RowTokens:
    """All tokens of a text file, whose one row it is, or of the rows of a .jsonl file.

    ModelNotFoundError when the model has no tokenizer.
    """
    if not (model / TOKENIZER_NAME).exists():
        message = f"{model}: has no {TOKENIZER_NAME}, so no text can be read to calibrate it"
        raise ModelNotFoundError(message)
    tokenizer = Tokenizer.from_file(resolve_inside(model, TOKENIZER_NAME), vocab_size=vocab_size)
    if Path(text).suffix == SUFFIX:
        return row_tokens(Path(text), model, tokenizer)
    ids = tokenizer.encode(read_text(str(text), max_bytes=MAX_TEXT_BYTES))
    return RowTokens(ids, [0], [(0, len(ids))])


def spread(tokens: RowTokens, size: CalibrationSize) -> NDArray[np.int64]:
    """Sequences at even distances from the beginning to the end; rows from where they begin."""
    ids = np.array(tokens.ids, np.int64)
    num_tokens = min(size.sequence_tokens, len(ids))
    num_sequences = min(size.num_sequences, len(ids) // num_tokens)
    last = len(ids) - num_tokens
    starts: Sequence[int] = np.linspace(0, last, num_sequences).astype(np.int64).tolist()
    rows = possible_starts(tokens, num_tokens)
    if len(rows) >= num_sequences:
        starts = rows[np.linspace(0, len(rows) - 1, num_sequences).astype(np.int64)].tolist()
    return np.array([ids[start : start + num_tokens] for start in starts], np.int64)


def possible_starts(tokens: RowTokens, num_tokens: int) -> NDArray[np.int64]:
    """Where rows begin that have so many tokens from there to the end of the file."""
    starts = np.array(tokens.starts, np.int64)
    return starts[starts + num_tokens <= len(tokens.ids)]


def digest(ids: NDArray[np.int64]) -> str:
    """What the sequences are, in short."""
    return hashlib.sha256(repr(ids.shape).encode() + ids.tobytes()).hexdigest()
