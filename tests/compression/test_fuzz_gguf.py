"""A slice of `make fuzz-gguf` without sanitizers: broken files end in a bundle or our errors."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_broken_gguf_files_end_in_a_bundle_or_a_typed_error(tmp_path):
    command = [sys.executable, ROOT / "tools/fuzz_gguf.py", tmp_path / "work"]
    done = subprocess.run(
        [*command, "--trials", "60", "--seed", "9"], capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    endings = json.loads(done.stdout)
    assert sum(endings.values()) == 60
    assert {"written", "ModelFileError"} <= endings.keys()
