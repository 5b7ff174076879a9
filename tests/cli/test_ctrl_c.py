"""Ctrl-C in every phase ends with 130 and one line, whatever the native core is doing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_S = 60
POLL_S = 0.002
INTERRUPTED = 130
# On the plain C++ path these last for seconds: (prompt, most tokens of the answer).
LONG_PROMPT = ("long " * 1500, 500)
LONG_ANSWER = ("long " * 100, 7000)


@pytest.fixture
def request_process(request, tiny_bundle):
    """A request in progress."""
    prompt, max_tokens = request.param
    arguments = ["generate", prompt, "--model", tiny_bundle, "--max-tokens", max_tokens, "--stream"]
    with subprocess.Popen(
        [sys.executable, "-m", "autoglm", *map(str, arguments), "--threads", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "AUTOGLM_ISA": "scalar"},
    ) as process:
        yield process
        process.kill()


def wait_for_threads(process, count):
    """Wait until the process has so many threads; it must not end before."""
    for _ in range(int(TIMEOUT_S / POLL_S)):
        if len(list(Path(f"/proc/{process.pid}/task").iterdir())) >= count:
            return
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(POLL_S)
    pytest.fail(f"fewer than {count} threads after {TIMEOUT_S} s")


def interrupt(process):
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, stderr.decode()


@pytest.mark.parametrize("request_process", [LONG_PROMPT], indirect=True, ids=[""])
def test_while_loading(request_process):
    wait_for_threads(request_process, 2)  # the watcher starts before the model is opened
    assert interrupt(request_process) == (INTERRUPTED, "autoglm: interrupted\n")


@pytest.mark.parametrize("request_process", [LONG_PROMPT], indirect=True, ids=[""])
def test_while_reading_the_prompt(request_process):
    wait_for_threads(request_process, 3)  # the core's worker starts once the model is mapped
    assert interrupt(request_process) == (INTERRUPTED, "autoglm: interrupted\n")


@pytest.mark.parametrize("request_process", [LONG_ANSWER], indirect=True, ids=[""])
def test_while_writing_the_answer(request_process):
    assert request_process.stdout.read(1)
    assert interrupt(request_process) == (INTERRUPTED, "autoglm: interrupted\n")


@pytest.mark.parametrize("command", ["bench", "score"])
def test_while_measuring(tiny_bundle, tmp_path, command):
    text = tmp_path / "text.txt"
    text.write_text("word " * 5000, encoding="utf-8")
    options = {
        "bench": ["--prompt-tokens", "7000", "--repeat", "100"],
        "score": ["--file", str(text)],
    }[command]
    with subprocess.Popen(
        [sys.executable, "-m", "autoglm", command, "--model", str(tiny_bundle), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "AUTOGLM_ISA": "scalar"},
    ) as process:
        wait_for_threads(process, 3)
        assert interrupt(process) == (INTERRUPTED, "autoglm: interrupted\n")


INTERRUPTED_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
wanted = sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
from autoglm.cli.entry import entry_point
sys.exit(entry_point())
"""


@pytest.mark.parametrize(
    "module", ["autoglm.cli.main", "argparse", "autoglm.errors", "autoglm.cli.doctor"]
)
def test_while_the_program_itself_is_loaded(module):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, "doctor"],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (INTERRUPTED, b"autoglm: interrupted\n")


TERMINATED = """
import os, signal, sys
from autoglm.cli import convert as command
from autoglm.cli.main import entry_point
def terminated(*arguments, progress, real=command.convert, **options):
    kill = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    return real(*arguments, progress=kill, **options)
command.convert = terminated
sys.exit(entry_point())
"""


def test_a_terminated_conversion_leaves_nothing(tiny_checkpoint, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED, "convert", str(tiny_checkpoint), str(tmp_path / "out")],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (INTERRUPTED, b"autoglm: interrupted\n")
    assert list(tmp_path.iterdir()) == []
