"""A limit on the memory of a child process, page cache included, by a control group.

Resource limits (setrlimit) count address space or anonymous memory, never the page cache that a
mapped file fills, so without a control group there is no cap.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONTROL = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryCap:
    """A control group; a process that joins it is limited from then on."""

    path: Path
    version: int

    def join(self) -> None:
        """Put this process under the cap."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def set_limit(self, num_bytes: int) -> None:
        """Limit memory and, where the kernel has it, swap."""
        if self.version == 2:
            self._write("memory.max", num_bytes)
            with contextlib.suppress(OSError):
                self._write("memory.swap.max", 0)
            return
        self._write("memory.limit_in_bytes", num_bytes)
        with contextlib.suppress(OSError):
            self._write("memory.memsw.limit_in_bytes", num_bytes)

    def peak_bytes(self) -> int | None:
        """The most memory the group has had, page cache included."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        try:
            return int((self.path / name).read_text(encoding="ascii"))
        except OSError:
            return None

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value), encoding="ascii")


@contextlib.contextmanager
def memory_cap(num_bytes: int) -> Iterator[MemoryCap]:
    """A new group with this limit, removed at the end; OSError where none can be made."""
    version, parent = (1, CONTROL / "memory")
    if not (parent / "memory.limit_in_bytes").exists():
        version, parent = (2, CONTROL)
        (parent / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
    path = parent / f"autoglm-bench-{os.getpid()}"
    path.mkdir()
    try:
        cap = MemoryCap(path, version)
        cap.set_limit(num_bytes)
        yield cap
    finally:
        path.rmdir()
