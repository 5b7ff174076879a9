"""The memory contract: `doctor` predicts what `generate` takes, and what cannot fit is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from random_checkpoint import Shape, write_checkpoint

from autoglm.engine import model
from autoglm.errors import ResourceError
from autoglm.hardware.memory import available_bytes
from autoglm.modelfile.convert import convert

TOLERANCE = 0.05
SHAPES = {
    "weights": Shape(
        hidden=1024, layers=3, heads=16, kv_heads=4, head_dim=64, intermediate=4096, vocab=8192
    ),
    "cache": Shape(
        hidden=256, layers=8, heads=16, kv_heads=16, head_dim=128, intermediate=256, vocab=300
    ),
}
CASES = [
    ("lite", "int8", "请总结：" + "我们周五发布。" * 60),
    ("weights", "int8", "word " * 20),
    ("weights", "int4", "word " * 300),
    ("weights", "bf16", "word " * 20),
    ("cache", "int4", "word " * 500),
    ("cache", "int8", "word " * 20),
]
MEASURED = """
import sys
from autoglm.cli.main import main
main(sys.argv[1:])
for line in open("/proc/self/status"):
    if line.startswith("VmHWM:"):
        print(line.split()[1])
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The bundle of a shape and format, None for the model of the package."""
    folder = tmp_path_factory.mktemp("memory")

    def path(name: str, weights: str) -> Path | None:
        if name == "lite":
            return None
        source, out = folder / name, folder / f"{name}-{weights}"
        if not source.exists():
            write_checkpoint(source, SHAPES[name])
        if not out.exists():
            convert(source, out, weights)
        return out

    return path


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.parametrize(("name", "weights", "prompt"), CASES)
def test_doctor_predicts_the_peak_of_generate_within_five_per_cent(name, weights, prompt, bundle):
    path = bundle(name, weights)
    where = ["--model", str(path)] if path else []
    generate = ["generate", prompt, "--max-tokens", "8", "--json", *where]
    answer, peak = output(sys.executable, "-c", MEASURED, *generate).splitlines()
    usage = json.loads(answer)["usage"]
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    doctor = ["doctor", "--context", str(tokens), "--json", *where]
    need = json.loads(output(sys.executable, "-m", "autoglm", *doctor))["model"]["memory"]
    assert need["context_tokens"] == tokens
    assert need["peak_bytes"] == pytest.approx(int(peak) * 1024, rel=TOLERANCE)


def test_a_draft_model_counts(bundle):
    path = bundle("cache", "int8")
    where = ["--model", str(path), "--context", "256", "--json"]
    doctor = [sys.executable, "-m", "autoglm", "doctor", *where]
    alone, drafted = (
        json.loads(output(*doctor, *options))["model"]["memory"]
        for options in ([], ["--draft-model", str(bundle("cache", "int4"))])
    )
    assert drafted["kv_bytes"] == 2 * alone["kv_bytes"]
    assert drafted["weights_bytes"] > alone["weights_bytes"]


def test_a_model_that_cannot_fit_is_refused_with_the_context_that_would(
    bundle, autoglm, monkeypatch
):
    path = bundle("cache", "int8")
    monkeypatch.setattr(model, "available_bytes", lambda: 128 * 2**20)
    with pytest.raises(ResourceError, match=r"needs \d+ MiB .* a context of \d+ tokens would fit"):
        model.load_model(path)
    done = autoglm("generate", "hello", "--model", path)
    assert (done.exit_code, done.stdout) == (1, "")
    done = autoglm("doctor", "--model", path)
    assert done.exit_code == 1
    assert "model       unusable" in done.stdout
    model.load_model(path, context_tokens=64).close()


def test_a_model_larger_than_memory_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(model, "available_bytes", lambda: 8 * 2**20)
    with pytest.raises(ResourceError, match="use a smaller model"):
        model.load_model(bundle("weights", "int8"))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_available_memory_is_the_least_of_machine_and_groups(tmp_path):
    group = "sys/fs/cgroup/user.slice/shell.scope/"
    files = {
        "proc/meminfo": "MemTotal: 900 kB\nMemAvailable: 800 kB\n",
        "proc/self/cgroup": "0::/user.slice/shell.scope\n",
        f"{group}memory.max": "500000\n",
        f"{group}memory.current": "300000\n",
        f"{group}memory.stat": "anon 5\ninactive_file 100000\n",
        "sys/fs/cgroup/user.slice/memory.max": "max\n",
        "sys/fs/cgroup/user.slice/memory.current": "300000\n",
    }
    assert available_bytes(write(tmp_path, files)) == 300_000
    (tmp_path / group / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) == 800 * 1024


def test_available_memory_counts_the_first_version_of_control_groups(tmp_path):
    files = {
        "proc/self/cgroup": "3:cpu:/a\n7:memory:/a\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "700\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 50\n",
    }
    assert available_bytes(write(tmp_path, files)) == 350


def test_available_memory_is_unknown_when_nothing_tells(tmp_path):
    assert available_bytes(tmp_path) is None
