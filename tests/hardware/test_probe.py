"""The probe over made-up machines: a laptop, a container and a place that tells nothing."""

from pathlib import Path

import pytest

from autoglm.hardware.probe import Machine, probe
from autoglm.hardware.process import busy_seconds, peak_rss_bytes

GIB = 2**30


@pytest.fixture
def root(tmp_path):
    def write(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def laptop_files() -> dict[str, str]:
    cpu = "sys__devices__system__cpu__cpu"
    files = {
        "proc__cpuinfo": "processor\t: 0\nmodel name\t: Four Threads 2000\n",
        "proc__meminfo": "MemTotal:       8388608 kB\nMemAvailable:   4194304 kB\n",
        "proc__sys__kernel__osrelease": "6.1.0\n",
        f"{cpu}0__cpufreq__cpuinfo_max_freq": "3500000\n",
        "sys__class__power_supply__BAT0__type": "Battery\n",
        "sys__class__power_supply__BAT0__capacity": "73\n",
        "sys__class__power_supply__BAT0__status": "Discharging\n",
        "sys__class__power_supply__AC__type": "Mains\n",
        "sys__class__thermal__thermal_zone0__temp": "41000\n",
        "sys__class__thermal__thermal_zone1__temp": "52500\n",
    }
    for number, core in enumerate((0, 0, 1, 1)):
        files[f"{cpu}{number}__topology__physical_package_id"] = "0\n"
        files[f"{cpu}{number}__topology__core_id"] = f"{core}\n"
    return files


def test_laptop_is_read_in_full(root):
    assert probe(root(**laptop_files())) == Machine(
        cpu_model="Four Threads 2000",
        physical_cores=2,
        logical_cores=4,
        cpu_quota_cores=None,
        max_frequency_mhz=3500.0,
        memory_total_bytes=8 * GIB,
        memory_available_bytes=4 * GIB,
        memory_limit_bytes=None,
        battery_percent=73,
        is_on_battery=True,
        temperature_celsius=52.5,
        kernel="6.1.0",
    )


def test_container_limits_are_read(root):
    machine = probe(root(**{"sys__fs__cgroup__memory.max": f"{GIB}\n"}))
    assert machine.memory_limit_bytes == GIB


def test_cpu_quota_is_in_cores(root):
    machine = probe(root(**{"sys__fs__cgroup__cpu.max": "150000 100000\n"}))
    assert machine.cpu_quota_cores == 1.5


def test_unlimited_container_has_no_limits(root):
    machine = probe(
        root(**{"sys__fs__cgroup__cpu.max": "max 100000\n", "sys__fs__cgroup__memory.max": "max\n"})
    )
    assert (machine.cpu_quota_cores, machine.memory_limit_bytes) == (None, None)


def test_machine_that_tells_nothing_has_one_core_and_no_guesses(tmp_path):
    machine = probe(tmp_path)
    assert (machine.physical_cores, machine.logical_cores) == (1, 1)
    assert machine.memory_total_bytes is None
    assert machine.is_on_battery is None


def test_arm_board_is_named_by_its_device_tree(root):
    machine = probe(root(**{"proc__device-tree__model": "Board 5 Rev 1\0"}))
    assert machine.cpu_model == "Board 5 Rev 1"


def test_peak_rss_is_read_in_bytes(root):
    assert peak_rss_bytes(root(proc__self__status="VmPeak: 9 kB\nVmHWM:\t   2048 kB\n")) == 2**21


def test_busy_time_leaves_out_idle_and_iowait(root):
    assert busy_seconds(100, root(proc__stat="cpu  100 20 30 9000 900 4 5 6 0 0\n")) == 1.65
