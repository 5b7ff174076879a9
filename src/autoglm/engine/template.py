"""Renders chat templates, which come with model files and are not to be trusted.

minijinja gives them no Python objects and no files; `render_apart` also gives them a process of
their own with little memory and processor time. That process runs this very file, which is why it
imports nothing of autoglm.
"""

from __future__ import annotations

import datetime
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

MAX_SOURCE_CHARS = 2**18
MAX_OUTPUT_CHARS = 2**20
MAX_STEPS = 200_000
MAX_MEMORY_BYTES = 64 * 2**20
MAX_CPU_S = 0.1
# Starting the process is slow on a busy machine; the template's own time is MAX_CPU_S.
MAX_WALL_S = 20.0
PIPE_BYTES = 2**16  # of Linux

_TRAINING_TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


class TemplateError(Exception):
    """The template cannot be used; the message is one line and quotes no values."""


class TemplateRefusalError(TemplateError):
    """The template called `raise_exception`: it does not take these messages."""


def render(source: str, context: dict[str, Any]) -> str:
    """Render in this process, within bounds on steps and output. Raises TemplateError."""
    import minijinja

    if len(source) > MAX_SOURCE_CHARS:
        message = f"it has {len(source)} characters, at most {MAX_SOURCE_CHARS} are read"
        raise TemplateError(message)
    # With debug on, error messages would quote values.
    environment = minijinja.Environment(
        trim_blocks=True, lstrip_blocks=True, fuel=MAX_STEPS, debug=False
    )
    environment.add_global("raise_exception", _raise_exception)
    environment.add_global("strftime_now", _strftime_now)
    try:
        text = environment.render_str(_TRAINING_TAGS.sub("", source), "template", **context)
    except minijinja.TemplateError as err:
        raise TemplateError(str(err).partition("\n")[0][:200]) from err
    if len(text) > MAX_OUTPUT_CHARS:
        message = f"it writes {len(text)} characters around a prompt"
        raise TemplateError(message)
    return text


class ApartRendering:
    """A template that is rendered in a process with limits, from now on: others work meanwhile."""

    def __init__(self, source: str, context: dict[str, Any]) -> None:
        """Raises TemplateError when no process can be started."""
        import subprocess

        import minijinja

        packages = str(Path(minijinja.__file__).parents[1])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, packages],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._unsent = self._send(json.dumps([source, context]).encode())
        except OSError as err:
            message = f"no process could be started for it: {err.strerror}"
            raise TemplateError(message) from err

    def _send(self, data: bytes) -> bytes | None:
        """Send what a pipe takes at once; more has to wait until the process reads."""
        if len(data) > PIPE_BYTES or self._process.stdin is None:
            return data
        self._process.stdin.write(data)
        self._process.stdin.close()
        self._process.stdin = None
        return None

    def text(self) -> str:
        """Wait for the text. Raises TemplateError, also when a limit was met."""
        import subprocess

        try:
            output, _ = self._process.communicate(self._unsent, timeout=MAX_WALL_S)
        except subprocess.TimeoutExpired as err:
            self.close()
            message = f"it was not done after {MAX_WALL_S:.0f} s"
            raise TemplateError(message) from err
        if self._process.returncode != 0:
            message = (
                f"it needs more than {MAX_CPU_S * 1e3:.0f} ms or {MAX_MEMORY_BYTES >> 20} MiB "
                f"(exit code {self._process.returncode})"
            )
            raise TemplateError(message)
        kind, text = json.loads(output)
        if kind == "text":
            return str(text)
        raise (TemplateRefusalError if kind == "refusal" else TemplateError)(text)

    def close(self) -> None:
        """End the process if nobody waited for its text."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


def render_apart(source: str, context: dict[str, Any]) -> str:
    """Render in a process with limits. Raises TemplateError, also when a limit is met."""
    rendering = ApartRendering(source, context)
    try:
        return rendering.text()
    except BaseException:
        rendering.close()
        raise


def _raise_exception(reason: object = "") -> None:
    raise TemplateRefusalError(str(reason)[:200])


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now(tz=datetime.UTC).strftime(pattern[:64])


def _limit_process() -> None:
    import resource

    page_bytes = resource.getpagesize()
    now_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * page_bytes
    memory = now_bytes + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)


def _main() -> None:
    """Read [source, context] from stdin, write [kind, text] to stdout."""
    sys.path.append(sys.argv[1])
    source, context = json.load(sys.stdin)
    render("", {})  # loads minijinja before the limits count
    _limit_process()
    try:
        answer = ["text", render(source, context)]
    except TemplateRefusalError as err:
        answer = ["refusal", str(err)]
    except TemplateError as err:
        answer = ["error", str(err)]
    signal.setitimer(signal.ITIMER_PROF, 0)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
