"""Runs the command line as its users do, in a process of its own or in this one."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

TIMEOUT_S = 120


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def autoglm(monkeypatch, capfd):
    """Run a command in this process through the entry point, with text as its standard input."""
    from autoglm.cli.main import entry_point

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["autoglm", *map(str, arguments)])
        capfd.readouterr()
        exit_code = entry_point()
        captured = capfd.readouterr()
        return Done(exit_code, captured.out, captured.err)

    return run


@pytest.fixture
def autoglm_process():
    """Run a command in its own process, with bytes as its standard input."""

    def run(*arguments: object, stdin: bytes = b"", **options: object) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "autoglm", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            **options,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def meeting(tmp_path):
    """A short text file."""
    path = tmp_path / "meeting.txt"
    path.write_text("王芳：我们周五发布。\n李雷：好的，我来写说明。\n", encoding="utf-8")
    return path
