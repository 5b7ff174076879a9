"""The frame around the commands: dispatch, one-line errors, exit codes."""

import subprocess
import sys
import types

import pytest

from autoglm import __version__
from autoglm.cli import main as cli
from autoglm.errors import InputError, UsageError


def stub_command(run):
    return types.SimpleNamespace(add_arguments=lambda parser: None, run=run, __doc__="A stub.")


def run_entry_point(monkeypatch, run, *options):
    """Exit code of a command that does `run`."""
    monkeypatch.setattr(cli, "load_command", lambda name: stub_command(run))
    monkeypatch.setattr(sys, "argv", ["autoglm", "doctor", *options])
    return cli.entry_point()


def raising(err):
    def run(args):
        raise err

    return run


def test_version_goes_to_stdout(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"autoglm {__version__}\n"


def test_overview_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)


def test_no_command_shows_the_overview_on_stderr_and_ends_2(capsys):
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == cli.overview()


@pytest.mark.parametrize("argument", ["sing", "--fast"])
def test_unknown_command_names_the_known_ones(argument):
    with pytest.raises(UsageError, match="generate, chat, serve"):
        cli.main([argument])


def test_wrong_option_is_one_line_with_a_pointer_to_the_help(monkeypatch, capsys):
    assert run_entry_point(monkeypatch, lambda args: 0, "--no-such-option") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--no-such-option" in err
    assert "autoglm doctor --help" in err


@pytest.mark.parametrize(
    ("err", "exit_code", "line"),
    [
        (InputError("notes.txt: empty"), 1, "autoglm: notes.txt: empty\n"),
        (UsageError("wrong"), 2, "autoglm: wrong\n"),
        (InputError("two\nlines"), 1, "autoglm: two lines\n"),
        (KeyboardInterrupt(), 130, "autoglm: interrupted\n"),
        (MemoryError(), 1, "autoglm: out of memory\n"),
        (PermissionError(13, "Permission denied", "x"), 1, "autoglm: x: Permission denied\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_error_is_one_line_and_an_exit_code(monkeypatch, capsys, err, exit_code, line):
    assert run_entry_point(monkeypatch, raising(err)) == exit_code
    assert capsys.readouterr().err == line


def test_unexpected_error_does_not_show_its_message(monkeypatch, capsys):
    assert run_entry_point(monkeypatch, raising(ValueError("the user's secret"))) == 1
    assert capsys.readouterr().err == (
        "autoglm: internal error (ValueError); --debug shows where\n"
    )


def test_debug_lets_the_traceback_through(monkeypatch):
    with pytest.raises(ValueError, match="cause"):
        run_entry_point(monkeypatch, raising(ValueError("cause")), "--debug")


def test_module_runs_like_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "autoglm", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"autoglm {__version__}\n"


def test_full_disk_behind_stdout_is_one_line():
    script = f"{sys.executable} -m autoglm --version > /dev/full"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "autoglm: No space left on device\n")


def test_closed_stdout_is_one_line():
    script = f"{sys.executable} -m autoglm --version >&-"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "autoglm: standard output is closed\n")


@pytest.mark.parametrize(("streams", "exit_code"), [("2>&-", 2), (">&- 2>&-", 1)])
def test_closed_stderr_changes_no_exit_code(streams, exit_code):
    script = f"{sys.executable} -m autoglm unknown {streams}"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "", "")


def test_closed_stdin_is_an_empty_one():
    script = f"{sys.executable} -m autoglm score --file - <&-"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "autoglm: standard input: empty\n")


def test_closed_pipe_ends_quietly():
    script = f"{sys.executable} -m autoglm --help | head -c 1"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_interrupt_inside_exec_ends_with_130_and_not_by_the_signal():
    script = (
        "import sys, types\n"
        "from autoglm.cli import main as cli\n"
        "def run(args): exec('raise KeyboardInterrupt')\n"
        "stub = types.SimpleNamespace(add_arguments=lambda parser: None, run=run)\n"
        "cli.load_command = lambda name: stub\n"
        "sys.argv = ['autoglm', 'doctor']\n"
        "sys.exit(cli.entry_point())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, b"autoglm: interrupted\n")
