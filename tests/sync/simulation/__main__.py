"""Run many seeds: python -m tests.sync.simulation --seeds N [--start S]. Prints seeds that fail."""

import argparse
import multiprocessing
import subprocess
import sys
import time

from tests.sync.simulation.world import World


def _run(seed: int) -> tuple[int, int, list[str]]:
    world = World(seed)
    faults = world.run()
    return seed, len(world.oracle.writes), faults


def main() -> int:
    """Exit 1 if a seed failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    seeds = range(args.start, args.start + args.seeds)
    start, failed, num_writes = time.monotonic(), 0, 0
    with multiprocessing.Pool(args.jobs) as pool:
        for done, (seed, writes, faults) in enumerate(pool.imap_unordered(_run, seeds, 50), 1):
            num_writes += writes
            if faults:
                failed += 1
                sys.stdout.write(f"seed {seed} commit {commit}: {'; '.join(faults)}\n")
                sys.stdout.flush()
            if done % 5000 == 0:
                sys.stderr.write(f"{done} seeds, {time.monotonic() - start:.0f} s\n")
    sys.stdout.write(
        f"{len(seeds)} seeds from {args.start}, commit {commit}: {failed} failed, "
        f"{num_writes} writes, {time.monotonic() - start:.0f} s\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
