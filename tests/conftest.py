"""Fixtures that several areas share: a tiny GLM with random weights, as checkpoint and as bundle."""

from pathlib import Path

import pytest
from random_checkpoint import SHAPES, write_checkpoint

from autoglm.modelfile.convert import convert


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A Hugging Face directory with a byte-level tokenizer."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(path, SHAPES["tiny"])
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint, tmp_path_factory) -> Path:
    """The same model packed as int8."""
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    convert(tiny_checkpoint, path, "int8")
    return path
