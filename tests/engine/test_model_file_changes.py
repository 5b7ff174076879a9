"""A model file that is cut, written to or replaced in use: StorageError, and the process lives."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.fakes import ask

from autoglm.engine.model import LoadedModel, load_model
from autoglm.errors import StorageError
from autoglm.modelfile.bundle import WEIGHTS_NAME
from autoglm.types import SamplingParams

NUM_TRIALS = 200
OLD = (1_000_000_000, 1_000_000_000)  # the clock of a file system is coarse


@pytest.fixture
def copy(tiny_bundle, tmp_path) -> Path:
    """A bundle of the test's own, some years old."""
    path = tmp_path / "copy"
    shutil.copytree(tiny_bundle, path)
    os.utime(path / WEIGHTS_NAME, OLD)
    return path


def decode_until_it_fails(model: LoadedModel) -> str:
    """The message of the error that ends endless requests."""
    request = ask("x" * 50, max_tokens=1000, sampling=SamplingParams(ignore_eos=True))
    with pytest.raises(StorageError) as caught:
        while True:
            list(model.engine(max_tokens=1000).stream(request))
    return str(caught.value)


def cut(path: Path, number: random.Random) -> None:
    os.truncate(path, number.randrange(path.stat().st_size))


def overwrite(path: Path, number: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(number.randrange(path.stat().st_size - 100))
        file.write(number.randbytes(100))


@pytest.mark.parametrize("change", [cut, overwrite])
def test_a_file_changed_during_decode_is_a_storage_error_every_time(copy, change) -> None:
    """Both kinds of change, each at random moments: no crash and no wrong class in any trial."""
    weights = copy / WEIGHTS_NAME
    content = weights.read_bytes()
    for trial in range(NUM_TRIALS // 2):
        number = random.Random(trial)
        with load_model(copy, threads=2) as model:
            timer = threading.Timer(number.random() * 0.01, change, (weights, number))
            timer.start()
            message = decode_until_it_fails(model)
            timer.join()
        assert "open the model again" in message, f"trial {trial}"
        weights.unlink()
        weights.write_bytes(content)
        os.utime(weights, OLD)


def test_a_model_works_again_once_it_is_opened_again(copy) -> None:
    weights = copy / WEIGHTS_NAME
    content = weights.read_bytes()
    with load_model(copy) as model:
        expected = model.score(list(range(100)))
        os.truncate(weights, 0)
        with pytest.raises(StorageError, match="was changed while in use"):
            model.score(list(range(100)))
    weights.write_bytes(content)
    with load_model(copy) as model:
        assert model.score(list(range(100))) == expected


def test_a_replaced_file_does_not_disturb_who_has_it_open(copy) -> None:
    """Installers write beside the old file and rename: readers keep the old one."""
    weights = copy / WEIGHTS_NAME
    with load_model(copy) as model:
        expected = model.score(list(range(100)))
        (copy / "new").write_bytes(b"another model")
        (copy / "new").rename(weights)
        assert model.score(list(range(100))) == expected


FOREIGN_FAULT = """
import mmap, os, resource, sys
from autoglm.engine.model import load_model
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
model = load_model(sys.argv[1])
model.score([1, 2, 3])
with open(sys.argv[2], "w+b") as file:
    file.write(bytes(8192))
    file.flush()
    mapped = mmap.mmap(file.fileno(), 8192)
    os.truncate(sys.argv[2], 0)
    mapped[4096]
"""


def test_a_bus_error_of_somebody_else_still_ends_the_process(tiny_bundle, tmp_path) -> None:
    arguments = [str(tiny_bundle), str(tmp_path / "foreign")]
    done = subprocess.run([sys.executable, "-c", FOREIGN_FAULT, *arguments], timeout=60)
    assert done.returncode == -signal.SIGBUS
