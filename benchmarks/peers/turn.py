"""One engine's turn: its process, requests to it, and what else used the machine meanwhile.

Only the engine of the turn is alive, so nothing of this program disturbs a timing but this process,
which waits. A timing during which others used too much processor time is repeated.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from quiet import MAX_OTHER_CPUS, TICKS_PER_SECOND

from autoglm.hardware.process import KIB, busy_seconds
from peers.engines import Engine

TIMEOUT_S = 600.0
MIB = 2**20


class PeerError(Exception):
    """An engine ended, was silent for too long, or said what is not in the protocol."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each repetition, and how many processors others kept busy meanwhile."""

    seconds: tuple[float, ...]
    other_cpus: float

    @property
    def best(self) -> float:
        """The fastest repetition: the first may compile or page in."""
        return min(self.seconds)

    @property
    def middle(self) -> float:
        """The median repetition."""
        return median(self.seconds)

    @property
    def is_quiet(self) -> bool:
        """Whether the timing counts."""
        return self.other_cpus <= MAX_OTHER_CPUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of a live process, in MiB; `private_mib` is what no other process shares."""

    resident_mib: float
    peak_mib: float
    private_mib: float


def process_seconds(pid: int) -> float:
    """Processor time of a live process, all threads; proc(5): stat."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def read_memory(pid: int) -> Memory:
    """From proc(5): status and smaps_rollup."""
    status = _kib_lines(Path(f"/proc/{pid}/status"))
    shares = _kib_lines(Path(f"/proc/{pid}/smaps_rollup"))
    private = shares["Private_Clean"] + shares["Private_Dirty"]
    return Memory(
        resident_mib=status["VmRSS"] * KIB / MIB,
        peak_mib=status["VmHWM"] * KIB / MIB,
        private_mib=private * KIB / MIB,
    )


def peak_of(pid: int) -> float | None:
    """The most resident MiB of a process since its exec; None if it has ended.

    What wait4(2) tells counts the memory of this process too, from before the exec.
    """
    peak_kib = _kib_lines(Path(f"/proc/{pid}/status")).get("VmHWM")
    return None if peak_kib is None else peak_kib * KIB / MIB


def _kib_lines(path: Path) -> dict[str, int]:
    words = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {line[0].rstrip(":"): int(line[1]) for line in words if line[-1] == "kB"}


class Turn:
    """A started engine that has given its first token. A context manager."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        busy, own = _busy(), _own()
        start = time.perf_counter()
        self._process = subprocess.Popen(
            engine.command,
            env=engine.full_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        try:
            self.what = str(self._read()["ready"])
            first_s = time.perf_counter() - start
            others = _busy() - busy - (_own() - own) - process_seconds(self.pid)
        except (PeerError, KeyError, OSError):
            self.close()
            raise
        self.first_token = Timing((first_s,), max(0.0, others) / first_s)

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return self._process.pid

    def memory(self) -> Memory:
        """Of the engine, now."""
        return read_memory(self.pid)

    def ask(self, request: str) -> Timing:
        """One request of the protocol."""
        busy, own = _busy(), _own() + process_seconds(self.pid)
        start = time.perf_counter()
        stdin = self._process.stdin
        if stdin is None:
            message = f"{self.name}: has no standard input"
            raise PeerError(message)
        stdin.write(f"{request}\n".encode())
        stdin.flush()
        answer = self._read()
        wall = time.perf_counter() - start
        others = _busy() - busy - (_own() + process_seconds(self.pid) - own)
        if not answer.get("seconds"):
            message = f"{self.name}: answered {sorted(answer)} to a request"
            raise PeerError(message)
        return Timing(tuple(answer["seconds"]), max(0.0, others) / wall)

    def ask_quietly(self, request: str, attempts: int) -> Timing:
        """The first quiet timing of a request, else the quietest."""
        return quietest(lambda: self.ask(request), attempts)

    def close(self) -> None:
        """End the engine."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        """The next line that is a document; libraries print other lines too."""
        stdout = self._process.stdout
        if stdout is None:
            message = f"{self.name}: has no standard output"
            raise PeerError(message)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while selector.select(TIMEOUT_S):
                line = stdout.readline()
                if not line:
                    message = f"{self.name}: ended with {self._process.wait()}"
                    raise PeerError(message)
                if line.startswith((b'{"ready"', b'{"seconds"')):
                    document: dict[str, Any] = json.loads(line)
                    return document
        message = f"{self.name}: silent for {TIMEOUT_S:.0f} s"
        raise PeerError(message)


def quietest(measure: Callable[[], Timing], attempts: int) -> Timing:
    """Measure until a timing is quiet, at most `attempts` times."""
    best = measure()
    for _ in range(attempts - 1):
        if best.is_quiet:
            break
        best = min(best, measure(), key=lambda timing: timing.other_cpus)
    return best


def _busy() -> float:
    return busy_seconds(TICKS_PER_SECOND) or 0.0


def _own() -> float:
    times = os.times()
    return times.user + times.system
