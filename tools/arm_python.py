"""Unpack Debian's Python for aarch64 into a folder: headers to build with, and a Python to run.

Packages come through apt with lists and caches of its own beside the folder, so that the machine
keeps its settings. Usage: arm_python.py FOLDER
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "bookworm"
PYTHON = "python3.11"
PACKAGES = (
    f"lib{PYTHON}-dev",
    f"lib{PYTHON}-minimal",
    f"lib{PYTHON}-stdlib",
    f"{PYTHON}-minimal",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libsqlite3-0",
    "libssl3",
    "libstdc++6",
    "libuuid1",
    "zlib1g",
)
APT_SETTINGS = """
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
Dir::State::lists "{folder}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
"""
SOURCES = (
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    f"http://deb.debian.org/debian {SUITE} main\n"
)


def download(folder: Path) -> list[Path]:
    """Fetch the packages into `folder`; apt checks their signatures."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(SOURCES, encoding="utf-8")
    settings = folder / "apt.conf"
    settings.write_text(APT_SETTINGS.format(folder=folder), encoding="utf-8")
    apt = ["env", f"APT_CONFIG={settings}", "apt-get", "-q"]
    subprocess.run([*apt, "update"], check=True, cwd=folder)
    subprocess.run([*apt, "download", *PACKAGES], check=True, cwd=folder)
    return sorted(folder.glob("*.deb"))


def main(arguments: list[str]) -> int:
    """Unpack into a new folder, which appears whole or not at all."""
    target = Path(arguments[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        root = Path(scratch, "root").resolve()
        folder = Path(scratch, "apt").resolve()
        for package in download(folder):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
        # Debian's header picks the one of its architecture from a path no cross compiler searches.
        include = root / "usr/include"
        shutil.copy(include / f"aarch64-linux-gnu/{PYTHON}/pyconfig.h", include / PYTHON)
        root.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
