"""Layers packed by a real Ray cluster of one machine: the same bytes, and faults by their names."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import autoglm

WEIGHTS = "model.safetensors"
START_SECONDS = 120
STORE_BYTES = 80_000_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster in processes of its own, ended with them."""
    port = free_port()
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2"]
    command += ["--object-store-memory", str(STORE_BYTES), "--include-dashboard=false"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + START_SECONDS
    while not is_open(port):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]


def compress(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autoglm", "compress", str(source), "--out", str(out)]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=200)


def test_bytes_are_those_of_one_process(source, tmp_path, address):
    autoglm.compress(source, "w4a8", out=tmp_path / "alone")
    done = compress(source, tmp_path / "out", "--ray", address)
    assert (done.returncode, done.stderr) == (0, "")
    for name in (WEIGHTS, "config.json", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_fault_on_another_machine_keeps_its_name(parts, source, tmp_path, address):
    parts.tensors["model.layers.1.mlp.down_proj.weight"][3, 4] = np.nan
    parts.write(source)
    done = compress(source, tmp_path / "out", "--ray", address)
    assert done.returncode == 1
    assert "model.layers.1.mlp.down_proj.weight" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_calibrated_recipe_is_refused(source, text, tmp_path):
    options = ("--recipe", "w4a8-gptq", "--calibration", str(text), "--ray", "local")
    done = compress(source, tmp_path / "out", *options)
    assert done.returncode == 2
    assert "its layers cannot be spread by --ray" in done.stderr
