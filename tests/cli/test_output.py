"""What reaches a terminal and what reaches a pipe."""

import io
import json

from autoglm.cli.output import PROGRESS_AFTER_S, Progress, note, print_json


class Terminal(io.StringIO):
    def isatty(self):
        return True


def as_terminal(monkeypatch):
    """Make stderr a terminal; pytest puts its own stream back before each test's body."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def test_json_is_one_line_of_utf8(capsys):
    print_json({"text": "会议\n"})
    out = capsys.readouterr().out
    assert out == '{"text": "会议\\n"}\n'
    assert json.loads(out) == {"text": "会议\n"}


def test_error_is_red_on_a_terminal(monkeypatch):
    terminal = as_terminal(monkeypatch)
    note("failed", is_error=True)
    assert terminal.getvalue() == "\x1b[31mfailed\x1b[0m\n"


def test_no_color_is_respected(monkeypatch):
    terminal = as_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    note("failed", is_error=True)
    assert terminal.getvalue() == "failed\n"


def test_progress_appears_after_two_seconds_and_is_removed(monkeypatch):
    terminal = as_terminal(monkeypatch)
    now = [0.0]
    with Progress("packing", total=10, unit="layers", clock=lambda: now[0]) as progress:
        progress.update(1)
        assert terminal.getvalue() == ""
        now[0] = PROGRESS_AFTER_S
        progress.update(5)
    assert terminal.getvalue() == (
        f"\r\x1b[Kpacking [{'#' * 15}{'.' * 15}] 5/10 layers" + "\r\x1b[K"
    )


def test_progress_says_how_long_the_rest_will_take(monkeypatch):
    terminal = as_terminal(monkeypatch)
    now = [0.0]
    options = {"total": 100, "unit": "%", "shows_time_left": True}
    with Progress("packing", clock=lambda: now[0], **options) as progress:
        now[0] = 30.0
        progress.update(25.5)
    assert terminal.getvalue().startswith(
        f"\r\x1b[Kpacking [{'#' * 7}{'.' * 23}] 25/100 %, 1:28 left"
    )


def test_progress_is_silent_in_a_pipe(capsys):
    now = [0.0]
    with Progress("packing", clock=lambda: now[0]) as progress:
        now[0] = 2 * PROGRESS_AFTER_S
        progress.update(5)
    assert capsys.readouterr().err == ""
