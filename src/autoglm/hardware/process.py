"""Memory and processor time of this process and of the machine, read from /proc."""

from __future__ import annotations

from pathlib import Path

KIB = 1024
_RESET_PEAK = "5"  # proc(5), clear_refs


def peak_rss_bytes(root: Path = Path("/")) -> int | None:
    """The most resident memory the process has had since its start or the last reset."""
    return _status_bytes(root, "VmHWM:")


def rss_bytes(root: Path = Path("/")) -> int | None:
    """The resident memory of the process, mapped files included."""
    return _status_bytes(root, "VmRSS:")


def reset_peak_rss(root: Path = Path("/")) -> bool:
    """Start the peak again from the present size; False where the kernel does not allow it."""
    try:
        (root / "proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _status_bytes(root: Path, field: str) -> int | None:
    try:
        status = (root / "proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * KIB
    return None


def busy_seconds(ticks_per_second: int, root: Path = Path("/")) -> float | None:
    """Processor time that the whole machine has used since it started, over all cores."""
    try:
        first = (root / "proc/stat").read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return None
    # proc(5): user nice system idle iowait irq softirq steal
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / ticks_per_second
