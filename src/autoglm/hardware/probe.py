"""Reads processor, memory, battery and temperature from /proc and /sys under a root of choice.

What a machine does not tell (a virtual one has no battery and no clock) is None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KIB = 1024
UNLIMITED_BYTES = 2**60  # cgroup v1 writes a huge number for "no limit"


@dataclass(frozen=True, slots=True)
class Machine:
    """One reading of the hardware; limits of the control group are applied by the reader."""

    cpu_model: str | None
    physical_cores: int
    logical_cores: int
    cpu_quota_cores: float | None
    max_frequency_mhz: float | None
    memory_total_bytes: int | None
    memory_available_bytes: int | None
    memory_limit_bytes: int | None
    battery_percent: int | None
    is_on_battery: bool | None
    temperature_celsius: float | None
    kernel: str | None


def probe(root: Path = Path("/")) -> Machine:
    """Read the machine below `root`; a folder that holds copies of /proc and /sys will do."""
    cpuinfo = _fields(root / "proc/cpuinfo")
    memory = _fields(root / "proc/meminfo")
    cpus = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*"))
    logical = len(cpus) or max(1, _text(root / "proc/cpuinfo").count("processor\t"))
    return Machine(
        cpu_model=cpuinfo.get("model name") or _device_tree_model(root),
        physical_cores=_physical_cores(cpus) or logical,
        logical_cores=logical,
        cpu_quota_cores=_cpu_quota(root),
        max_frequency_mhz=_scaled(cpus[0] / "cpufreq/cpuinfo_max_freq", 1e-3) if cpus else None,
        memory_total_bytes=_kib(memory.get("MemTotal")),
        memory_available_bytes=_kib(memory.get("MemAvailable")),
        memory_limit_bytes=_memory_limit(root),
        battery_percent=_battery_percent(root),
        is_on_battery=_is_on_battery(root),
        temperature_celsius=_temperature(root),
        kernel=_text(root / "proc/sys/kernel/osrelease") or None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _fields(path: Path) -> dict[str, str]:
    """The `name: value` lines of a file; the first of a name counts."""
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _kib(value: str | None) -> int | None:
    number = (value or "").removesuffix("kB").strip()
    return int(number) * KIB if number.isdecimal() else None


def _scaled(path: Path, factor: float) -> float | None:
    text = _text(path)
    return int(text) * factor if text.removeprefix("-").isdecimal() else None


def _device_tree_model(root: Path) -> str | None:
    return _text(root / "proc/device-tree/model") or None


def _physical_cores(cpus: list[Path]) -> int:
    """Distinct (package, core) pairs; 0 when the topology is not told."""
    topologies = [cpu / "topology" for cpu in cpus]
    pairs = {(_text(t / "physical_package_id"), _text(t / "core_id")) for t in topologies}
    return len(pairs - {("", "")})


def _cpu_quota(root: Path) -> float | None:
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _memory_limit(root: Path) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _text(root / "sys/fs/cgroup" / name)
        if limit.isdecimal() and int(limit) < UNLIMITED_BYTES:
            return int(limit)
    return None


def _power_supplies(root: Path, kind: str) -> list[Path]:
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    return [supply for supply in supplies if _text(supply / "type") == kind]


def _battery_percent(root: Path) -> int | None:
    for battery in _power_supplies(root, "Battery"):
        capacity = _text(battery / "capacity")
        if capacity.isdecimal():
            return int(capacity)
    return None


def _is_on_battery(root: Path) -> bool | None:
    states = [_text(battery / "status") for battery in _power_supplies(root, "Battery")]
    return "Discharging" in states if states else None


def _temperature(root: Path) -> float | None:
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    readings = [_scaled(zone / "temp", 1e-3) for zone in zones]
    return max((reading for reading in readings if reading is not None), default=None)
