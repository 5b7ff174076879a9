"""Files that are generated and checked in are what their generator writes today."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def output(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_cli_reference_is_current():
    checked_in = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert output(str(ROOT / "tools/cli_reference.py")) == checked_in, "run `make docs`"


def test_messages_of_the_wire_are_current(tmp_path):
    output(str(ROOT / "tools/generate_protocol.py"), str(tmp_path))
    directory = ROOT / "src/autoglm/protocol/v1"
    generated = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    checked_in = {name: (directory / name).read_text(encoding="utf-8") for name in generated}
    assert generated
    assert generated == checked_in, "run `make fix`"


def test_native_stub_is_current(tmp_path):
    stub = tmp_path / "_core.pyi"
    output("-m", "nanobind.stubgen", "-q", "-m", "autoglm._core", "-o", str(stub))
    checked_in = (ROOT / "src/autoglm/_core.pyi").read_text(encoding="utf-8")
    assert stub.read_text(encoding="utf-8") == checked_in, "run `make fix`"
