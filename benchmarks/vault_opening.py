"""How long a vault takes to open and give its first record, in fresh processes, by the clock.

With a key file, and with an entry of a real keyring where GNOME's and D-Bus are installed. The call
alone, and with the imports that it needs: of a bare interpreter, and of one that has the SDK.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from figure import Figure

LIMIT_MS = 30.0
PROGRAMS = ("dbus-run-session", "gnome-keyring-daemon")
UNLOCK = "printf secret | gnome-keyring-daemon --unlock --components=secrets >/dev/null"
CODE = """
import sys, time
if "sdk" in sys.argv[3:]:
    import autoglm.client
start = time.perf_counter()
from pathlib import Path
from autoglm.privacy.vault.keystore import KeyFile, OsKeyring
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault
root = Path(sys.argv[1])
key = OsKeyring("bench") if sys.argv[2] == "keyring" else KeyFile(root / "key")
imported = time.perf_counter()
vault = Vault(VaultPaths(root / f"{sys.argv[2]}/v.db", root / f"{sys.argv[2]}-state/a"), key)
if vault.get("a", b"0") is None:
    vault.put("a", b"0", bytes(200))
end = time.perf_counter()
print(1e3 * (end - imported), 1e3 * (end - start))
"""


def figures(runs: int) -> Iterable[Figure]:
    """Medians of `runs` processes each."""
    with tempfile.TemporaryDirectory() as directory:
        alone = _key_file_times(directory, runs)
        beside = _key_file_times(directory, runs, "sdk")
        yield _figure("vault: open, first record, key file", [call for call, _ in alone])
        yield _figure("the same with imports, process with the SDK", [all_ for _, all_ in beside])
        yield _figure("the same with imports, bare interpreter", [all_ for _, all_ in alone])
        if all(map(shutil.which, PROGRAMS)):
            times = _keyring_times(directory, runs)
            yield _figure("vault: open, first record, GNOME's keyring", [call for call, _ in times])


def _figure(name: str, times: list[float]) -> Figure:
    half = median(times)
    return Figure(name, f"{half:.1f} ms, n {len(times)}", f"{LIMIT_MS:.0f} ms", half <= LIMIT_MS)


def _key_file_times(directory: str, runs: int, *options: str) -> list[tuple[float, float]]:
    command = [sys.executable, "-c", CODE, directory, "file", *options]
    # The first one makes the vault.
    lines = [_printed(command) for _ in range(runs + 1)]
    return _numbers(lines[1:])


def _keyring_times(directory: str, runs: int) -> list[tuple[float, float]]:
    script = Path(directory) / "code.py"
    script.write_text(CODE, encoding="utf-8")
    calls = f"{sys.executable} {script} {directory} keyring; " * (runs + 1)
    command = ["dbus-run-session", "--", "sh", "-ec", f"{UNLOCK}; {calls} kill 0"]
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "HOME": directory},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    return _numbers(done.stdout.splitlines()[1:])


def _printed(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _numbers(lines: list[str]) -> list[tuple[float, float]]:
    pairs = [line.split() for line in lines]
    return [(float(call), float(whole)) for call, whole in pairs]
