"""The checked-in stub of the native module is the one its generator writes today."""

import importlib
from pathlib import Path

from nanobind.stubgen import StubGen

STUB = Path(__file__).parents[2] / "src/autoglm/_core.pyi"


def test_the_native_stub_is_current() -> None:
    core = importlib.import_module("autoglm._core")
    generator = StubGen(core, quiet=True)
    generator.put(core)
    command = f"python -m nanobind.stubgen -m autoglm._core -o {STUB.relative_to(STUB.parents[2])}"
    assert generator.get() == STUB.read_text(encoding="utf-8"), f"run: {command}"
