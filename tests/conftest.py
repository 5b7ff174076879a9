"""What several areas share: a tiny GLM with random weights, and how long property tests run."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings
from random_checkpoint import SHAPES, write_checkpoint

from autoglm.modelfile.convert import convert

# A shell starts background jobs with SIGINT ignored, and programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=20_000)
settings.load_profile("default")


def pytest_addoption(parser) -> None:
    """`--scale N`: N times as much of what a test repeats, where it says so (make cloud-faults)."""
    parser.addoption("--scale", type=int, default=1)


@pytest.fixture(scope="session")
def scale(request) -> int:
    """How many times as much a test repeats."""
    return request.config.getoption("--scale")


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
