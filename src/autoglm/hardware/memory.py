"""How much memory a process may still take: what the machine has, and its control groups allow.

Pages of the file cache count as available, because the kernel gives them up first.
"""

from __future__ import annotations

from pathlib import Path

KIB = 1024


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes this process may still take before something is killed; None when nothing tells."""
    bounds = [_machine(root), *_groups(root)]
    return min((bound for bound in bounds if bound is not None), default=None)


def _machine(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * KIB
    return None


def _groups(root: Path) -> list[int | None]:
    """The room in each control group around the process, in both versions of the interface."""
    rooms: list[int | None] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        folder = top / path.lstrip("/")
        # In a container the path may be the host's, of which only the root is to be seen.
        for group in (folder, *folder.parents):
            if not group.is_relative_to(top):
                break
            rooms.append(_room(group, is_first_version=bool(controllers)))
    return rooms


def _room(group: Path, *, is_first_version: bool) -> int | None:
    names = ("memory.max", "memory.current", "inactive_file")
    if is_first_version:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit, used = _text(group / names[0]), _text(group / names[1])
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    reclaimable = 0
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == names[2] and value.isdecimal():
            reclaimable = int(value)
    return max(0, int(limit) - int(used) + reclaimable)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
