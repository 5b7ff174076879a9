"""Broken bundles, loaded and decoded in a process of its own: no crash, only our errors (R5)."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUM_TRIALS = 400
SEED = 20


def test_broken_bundles_answer_or_end_in_our_errors(tmp_path) -> None:
    command = [sys.executable, ROOT / "tools/fuzz_bundle.py", tmp_path / "work"]
    done = subprocess.run(
        [*map(str, command), "--trials", str(NUM_TRIALS), "--seed", str(SEED)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    endings = json.loads(done.stdout)
    assert sum(endings.values()) == NUM_TRIALS
    # Most edits must reach beyond the parser, and some of them be harmless.
    assert endings["answered"] >= NUM_TRIALS // 10
    assert {"ModelFileError", "ModelConfigError"} <= set(endings)
