"""Does the vault keep what it acknowledged when the power fails at any moment?

A writer runs with its file operations recorded; then states that a power loss could have left are
rebuilt, opened and checked. What was synced is there; of the rest any part may be, and the last
write of a file may be torn at a sector. `--control` turns SQLite's syncs off: records must be lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from autoglm.errors import StorageError
from autoglm.privacy.vault import database
from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault

KEYS = 12
SECTOR_BYTES = 512
_ENTRY = struct.Struct("<BHQI")


class Operation(NamedTuple):
    """One line of the log: W write, T truncate, S sync, C create, U unlink, L link."""

    kind: str
    path: str
    offset: int
    data: bytes


def read_log(path: Path) -> list[Operation]:
    """What tools/record_writes.cc wrote."""
    content = path.read_bytes()
    operations = []
    place = 0
    while place < len(content):
        kind, path_bytes, offset, data_bytes = _ENTRY.unpack_from(content, place)
        place += _ENTRY.size
        name = content[place : place + path_bytes].decode()
        place += path_bytes
        operations.append(Operation(chr(kind), name, offset, content[place : place + data_bytes]))
        place += data_bytes
    return operations


@dataclass(slots=True)
class _File:
    """The durable content of an inode, and the changes since its last sync."""

    durable: bytes = b""
    pending: list[Operation] = field(default_factory=list)

    def sync(self) -> None:
        self.durable = _apply(self.durable, self.pending)
        self.pending = []

    def crashed(self, chance: random.Random) -> bytes:
        """One of the contents that a power loss may leave."""
        kept = [change for change in self.pending if chance.random() < 0.5]
        writes = [place for place, change in enumerate(kept) if change.kind == "W"]
        if writes and chance.random() < 0.5:
            torn = kept[writes[-1]]
            sectors = chance.randrange(len(torn.data) // SECTOR_BYTES + 1)
            kept[writes[-1]] = torn._replace(data=torn.data[: sectors * SECTOR_BYTES])
        return _apply(self.durable, kept)


def _apply(content: bytes, changes: list[Operation]) -> bytes:
    result = bytearray(content)
    for change in changes:
        if change.kind == "T":
            size = change.offset
            result = result[:size] + bytes(max(0, size - len(result)))
        else:
            end = change.offset + len(change.data)
            result += bytes(max(0, end - len(result)))
            result[change.offset : end] = change.data
    return bytes(result)


class Disk:
    """Replays operations and tells which states a power loss after any of them may leave."""

    def __init__(self) -> None:
        self._now: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._names: dict[str, list[tuple[str, _File | None]]] = {}

    def replay(self, operation: Operation) -> None:
        """Do one operation."""
        path = operation.path
        if operation.kind == "S":
            self._sync(path)
        elif operation.kind == "C":
            self._name(path, _File())
        elif operation.kind == "L":
            self._name(path, self._now[operation.data.decode()])
        elif operation.kind == "U":
            self._name(path, None)
        else:
            self._now[path].pending.append(operation)

    def _name(self, path: str, file: _File | None) -> None:
        if file is None:
            del self._now[path]
        else:
            self._now[path] = file
        self._names.setdefault(str(Path(path).parent), []).append((path, file))

    def _sync(self, path: str) -> None:
        if path in self._now:
            self._now[path].sync()
            return
        for name, file in self._names.pop(path, []):
            _set(self._durable, name, file)

    def crashed(self, chance: random.Random) -> dict[str, bytes]:
        """The files of one state that a power loss may leave now."""
        files = dict(self._durable)
        for changes in self._names.values():
            # Names of one directory change in order.
            for name, file in changes[: chance.randrange(len(changes) + 1)]:
                _set(files, name, file)
        contents: dict[int, bytes] = {}
        for file in files.values():
            contents.setdefault(id(file), file.crashed(chance))
        return {name: contents[id(file)] for name, file in files.items()}


def _set(files: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        files.pop(name, None)
    else:
        files[name] = file


def states(
    operations: list[Operation], number: int, seed: int, *, ignored: str
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """`number` states, spread over the log: how many operations were done, and the files left.

    Files at paths that begin with `ignored` are none of the disk's.
    """
    chance = random.Random(seed)
    points = sorted(chance.randrange(len(operations) + 1) for _ in range(number))
    disk = Disk()
    done = 0
    for point in points:
        for operation in operations[done:point]:
            if not operation.path.startswith(ignored):
                disk.replay(operation)
        done = point
        yield point, disk.crashed(chance)


class Outcome(NamedTuple):
    """How many states were tried, and what was wrong with those that failed."""

    num_states: int
    num_with_records: int
    faults: list[str]


def parts(root: Path) -> tuple[VaultPaths, KeyFile]:
    """The vault below a directory."""
    return VaultPaths(root / "data" / "vault.db", root / "state" / "anchor"), KeyFile(root / "key")


def write(root: Path, *, num_commits: int, has_syncs: bool) -> None:
    """Commit, and acknowledge each commit by a line of the file `acks`."""
    if not has_syncs:
        connect = database.connect

        def careless(path: Path) -> sqlite3.Connection:
            connection = connect(path)
            connection.execute("PRAGMA synchronous = off")
            return connection

        database.connect = careless
    acks = os.open(root / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with Vault(*parts(root)) as vault:
        for commit in range(1, num_commits + 1):
            with vault.transaction() as changes:
                for part in range(2):
                    key = b"%d" % ((commit * 2 + part) % KEYS)
                    changes.put("a", key, b"%d " % commit + b"v" * (commit * 37 % 900))
            if commit % 10 == 0:
                vault.rotate()
            os.write(acks, b"%d\n" % commit)


def record(work: Path, *, num_commits: int, has_syncs: bool) -> list[Operation]:
    """Run the writer under the recorder and return its file operations."""
    library = work / "record_writes.so"
    source = Path(__file__).with_name("record_writes.cc")
    compiler = os.environ.get("CXX", "c++")
    flags = ["-std=c++20", "-shared", "-fPIC", "-O1", "-D_GNU_SOURCE", "-o"]
    subprocess.run([compiler, *flags, str(library), str(source), "-ldl"], check=True)
    root = work / "written"
    for directory in (root, root / "data", root / "state"):
        directory.mkdir()
    environ = {"LD_PRELOAD": library, "RECORD_LOG": work / "log", "RECORD_ROOT": root}
    subprocess.run(
        [sys.executable, __file__, "--write", str(root), "--commits", str(num_commits)]
        + ([] if has_syncs else ["--control"]),
        check=True,
        env={**os.environ, **{name: str(value) for name, value in environ.items()}},
    )
    return read_log(work / "log")


def fault(root: Path, num_acked: int) -> str | None:
    """What is wrong with the state below `root`, in which `num_acked` commits must be found."""
    try:
        with Vault(*parts(root), must_exist=num_acked > 0) as vault:
            vault.verify()
            found = [vault.get("a", b"%d" % key) for key in range(KEYS)]
    except StorageError as err:
        return f"{type(err).__name__} after {num_acked} commits"
    latest = max((int(value.split()[0]) for value in found if value), default=0)
    if latest < num_acked:
        return f"commit {num_acked} was acknowledged, {latest} was found"
    for key in range(KEYS):
        commits = [c for c in range(1, latest + 1) for p in (0, 1) if (c * 2 + p) % KEYS == key]
        value = found[key]
        if (value is None) != (not commits) or (value and int(value.split()[0]) != commits[-1]):
            return f"record {key} is not of the latest commit {latest}"
    return None


def check(work: Path, operations: list[Operation], number: int, seed: int) -> Outcome:
    """Rebuild and check `number` states."""
    written = work / "written"
    acks = [
        place
        for place, operation in enumerate(operations)
        if operation.path == str(written / "acks") and operation.kind == "W"
    ]
    faults: list[str] = []
    num_with_records = 0
    root = work / "crashed"
    for point, files in states(operations, number, seed, ignored=str(written / "acks")):
        shutil.rmtree(root, ignore_errors=True)
        for directory in (root, root / "data", root / "state"):
            directory.mkdir()
        for name, content in files.items():
            target = root / Path(name).relative_to(written)
            target.write_bytes(content)
            target.chmod(0o600)
        num_acked = sum(place < point for place in acks)
        num_with_records += num_acked > 0
        found = fault(root, num_acked)
        if found is not None:
            faults.append(f"operation {point}: {found}")
    return Outcome(number, num_with_records, faults)


def try_states(
    number: int, *, seed: int = 1, num_commits: int = 40, has_syncs: bool = True
) -> Outcome:
    """Record a writer of `num_commits` commits and check `number` states of it."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory).resolve()
        operations = record(work, num_commits=num_commits, has_syncs=has_syncs)
        return check(work, operations, number, seed)


def main() -> int:
    """Print the outcome as JSON; 1 when a state failed, or when none of the control did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--commits", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="without syncs: losses are expected")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(args.write, num_commits=args.commits, has_syncs=not args.control)
        return 0
    outcome = try_states(
        args.states, seed=args.seed, num_commits=args.commits, has_syncs=not args.control
    )
    report = {
        "seed": args.seed,
        "control": args.control,
        "states": outcome.num_states,
        "with_records": outcome.num_with_records,
        "faults": len(outcome.faults),
        "first": outcome.faults[:3],
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return int(bool(outcome.faults) != args.control)


if __name__ == "__main__":
    sys.exit(main())
