"""`make bench-cloud`: speed of synchronisation, cloud service, privacy boundary and vault.

Prints the figures, keeps them in benchmarks/results and puts them into BENCHMARKS.md. Needs root
for the lossy link, PostgreSQL, two minutes and a machine that does nothing else.
Usage: cloud_figures.py [--render FILE] [--no-page]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cloud_streams
import privacy_figures
import sync_rounds
import sync_wire
from figure import Figure, load, render, save, table
from lossy_link import Link
from quiet import measured

from autoglm.hardware.probe import probe
from autoglm.privacy.pii.detect import Detector

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "BENCHMARKS.md"
RESULTS = ROOT / "benchmarks" / "results"
RUNS = 9


def sections() -> Iterable[tuple[str, list[Figure], float]]:
    """Name, figures and what others took of the processors, in the order of measuring."""
    detector = Detector()
    # The link forks, so it comes before anything that starts threads.
    parts: dict[str, Callable[[], Iterable[Figure]]] = {
        "lossy link": lambda: sync_rounds.figures(Link()),
        "200 streams": cloud_streams.figures,
        "wire": sync_wire.figures,
        "privacy": lambda: privacy_figures.speed_figures(detector, []),
        "vault": lambda: privacy_figures.vault_figures(RUNS),
    }
    for name, measure in parts.items():
        start = time.monotonic()
        run = measured(partial(_all_of, measure), attempts=1)
        sys.stderr.write(
            f"bench-cloud: {name}: {time.monotonic() - start:.0f} s, "
            f"others took {run.other_cpus:.2f} processors\n"
        )
        yield name, run.value, run.other_cpus


def _all_of(measure: Callable[[], Iterable[Figure]]) -> list[Figure]:
    return list(measure())


def conditions(other_cpus: float) -> dict[str, str]:
    """What the figures were measured on."""
    machine = probe()
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": done.stdout.strip(),
        "machine": f"{machine.cpu_model}, {machine.physical_cores} cores",
        "other_cpus": f"{other_cpus:.2f}",
    }


def section(found: dict[str, str], figures: list[Figure]) -> str:
    """The generated part of the page."""
    return (
        f"{found['machine']}, {found['date']}, commit {found['commit']}; service, PostgreSQL "
        "and readers share the machine, other programs took up to "
        f"{found['other_cpus']} processors.\n\n"
        f"{table(figures)}"
    )


def main() -> int:
    """1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", type=Path, help="put a result into the page, measure nothing")
    parser.add_argument("--no-page", action="store_true", help="print only")
    args = parser.parse_args()
    if args.render is not None:
        render(PAGE, "cloud", section(*load(args.render)))
        return 0
    parts = list(sections())
    figures = [figure for _, found, _ in parts for figure in found]
    about = conditions(max(other for *_, other in parts))
    sys.stdout.write(f"{section(about, figures)}\n")
    if not args.no_page:
        save(RESULTS / f"cloud-{time.strftime('%Y%m%d', time.gmtime())}.json", about, figures)
        render(PAGE, "cloud", section(about, figures))
    return int(any(figure.is_met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
