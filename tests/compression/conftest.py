"""A tiny checkpoint whose tokenizer reads words, and texts of such words."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.modelfile.conftest import Parts, leftovers, parts

import autoglm
from autoglm.compression.stage import Stage

__all__ = ["leftovers", "parts"]

# The training kernels need AMX and a compiler; without them training is torch's.
if not shutil.which("g++") or "amx_bf16" not in Path("/proc/cpuinfo").read_text():
    collect_ignore = ["test_native_recovery.py"]

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


@pytest.fixture
def compress_twice(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path, Path | str], Path]:
    """Compress in one go, and with an interruption after a layer: the bytes must be equal."""

    def compress(source: Path, recipe: Path | str) -> Path:
        whole, out = tmp_path / "whole", tmp_path / "out"
        autoglm.compress(source, recipe, out=whole, calibration=text)
        note = Stage.finish_unit

        def stop(stage: Stage, unit: str, names: Sequence[str]) -> None:
            note(stage, unit, names)
            if unit == "model.layers.0":
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Stage, "finish_unit", stop)
            autoglm.compress(source, recipe, out=out, calibration=text)
        assert autoglm.compress(source, recipe, out=out, calibration=text).resumed_units == 2
        first, second = (path / "model.safetensors" for path in (whole, out))
        assert first.read_bytes() == second.read_bytes()
        return out

    return compress
