"""Does the vault keep what it acknowledged when its process is killed at any moment?

A writer commits and acknowledges over a pipe; SIGKILL ends it at a random time, the vault is opened
and checked, and the next writer goes on. Every second one also rotates the key.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from autoglm.privacy.vault.keystore import KeyFile
from autoglm.privacy.vault.places import VaultPaths
from autoglm.privacy.vault.store import Vault

KEYS = 50
LONGEST_S = 0.03


class Outcome(NamedTuple):
    """What was tried: kills, acknowledged commits, rotations that a kill cut off or ended."""

    num_kills: int
    num_acked: int
    num_rotations: int
    faults: list[str]


def write(root: Path, first: int, acks: int, *, rotates: bool) -> None:
    """Commit numbers from `first` on for ever; acknowledge each by 8 bytes."""
    with Vault(*parts(root)) as vault:
        for number in range(first, 2**40):
            with vault.transaction() as changes:
                for part in range(2):
                    changes.put("a", b"%d" % ((number + part) % KEYS), b"%d" % number)
            os.write(acks, number.to_bytes(8, "big"))
            if rotates:
                vault.rotate()


def parts(root: Path) -> tuple[VaultPaths, KeyFile]:
    """The vault below a directory."""
    return VaultPaths(root / "data" / "vault.db", root / "state" / "anchor"), KeyFile(root / "key")


def killed_writer(root: Path, first: int, num_acks: int, delay_s: float, *, rotates: bool) -> int:
    """Fork a writer, kill it some time after its first acknowledgements, return the last one."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        try:
            write(root, first, sending, rotates=rotates)
        finally:
            os._exit(1)
    os.close(sending)
    acked = first - 1
    with os.fdopen(receiving, "rb") as pipe:
        for _ in range(num_acks):
            acked = int.from_bytes(pipe.read(8), "big")
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            message = "the writer ended by itself"
            raise RuntimeError(message)
        content = pipe.read()
    return int.from_bytes(content[-8:], "big") if content else acked


def fault(root: Path, acked: int) -> str | None:
    """What is wrong with the vault, in which commit `acked` must be found."""
    paths, key = parts(root)
    with Vault(paths, key) as vault:
        vault.verify()
        latest = max((int(record.value) for record in vault.records()), default=0)
    database = sqlite3.connect(paths.database)
    integrity = database.execute("PRAGMA integrity_check").fetchall()
    database.close()
    if integrity != [("ok",)]:
        return f"integrity: {integrity[0][0]}"
    if latest not in (acked, acked + 1):
        return f"commit {acked} was acknowledged, {latest} was found"
    return None


def kill_often(number: int, *, seed: int = 1) -> Outcome:
    """Kill `number` writers one after another on the same vault."""
    chance = random.Random(seed)
    faults: list[str] = []
    acked = 0
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with Vault(*parts(root)):
            pass
        num_rotations = 0
        for kill in range(number):
            rotates = kill % 2 == 1
            with Vault(*parts(root)) as vault:
                key_id = vault.status().key_id
                latest = max((int(record.value) for record in vault.records()), default=0)
            num_acks, delay_s = chance.randrange(6), chance.uniform(0, LONGEST_S)
            last = killed_writer(root, latest + 1, num_acks, delay_s, rotates=rotates)
            acked = max(acked, last)
            found = fault(root, acked)
            if found is not None:
                faults.append(f"kill {kill}: {found}")
            with Vault(*parts(root)) as vault:
                num_rotations += vault.status().key_id - key_id
    return Outcome(number, acked, num_rotations, faults)


def main() -> int:
    """Print the outcome as JSON; 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    outcome = kill_often(args.kills, seed=args.seed)
    report = {"seed": args.seed, **outcome._asdict(), "faults": outcome.faults[:3]}
    sys.stdout.write(json.dumps(report) + "\n")
    return int(bool(outcome.faults))


if __name__ == "__main__":
    sys.exit(main())
