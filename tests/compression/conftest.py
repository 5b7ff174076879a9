"""A tiny checkpoint whose tokenizer reads words, and texts of such words."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.modelfile.conftest import Parts, leftovers, parts

__all__ = ["leftovers", "parts"]

NUM_WORDS = 40


@pytest.fixture
def source(parts: Parts, tmp_path: Path) -> Path:
    """The checkpoint on disk."""
    vocabulary = {f"w{i}": i for i in range(NUM_WORDS)}
    parts.files["tokenizer.json"] = json.dumps(
        {
            "added_tokens": [],
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
        }
    ).encode()
    for values in parts.tensors.values():
        if values.ndim == 2:
            values /= np.sqrt(np.float32(values.shape[1]))
        else:
            values[...] = 1.0 + 0.1 * values
    return parts.write(tmp_path / "src")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A calibration text of 2,000 words."""
    words = np.random.default_rng(1).integers(0, NUM_WORDS, 2000)
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"w{word}" for word in words))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe file."""

    def write(content: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(content)
        return path

    return write
