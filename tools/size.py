"""Print how large the project is: files and lines by area, the files nearest their cap."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
AREAS = ("src", "cpp", "tests", "tools", "benchmarks", "examples")
CAPS = {".py": 400, ".cc": 700, ".h": 700}
NUM_LARGEST = 8


def num_lines(path: Path) -> int:
    """Lines of a text file."""
    return path.read_bytes().count(b"\n")


def capped_files(root: Path, areas: tuple[str, ...] = AREAS) -> list[Path]:
    """Every source file that a cap applies to."""
    files = (path for area in areas for path in sorted((root / area).rglob("*")))
    return [path for path in files if path.suffix in CAPS]


def main() -> int:
    """Print the report."""
    for area in AREAS:
        files = capped_files(ROOT, (area,))
        total = sum(map(num_lines, files))
        sys.stdout.write(f"{area:<12} {len(files):>4} files {total:>7} lines\n")
    largest = sorted(capped_files(ROOT), key=lambda p: num_lines(p) / CAPS[p.suffix])
    sys.stdout.write("\nnearest their cap:\n")
    for path in reversed(largest[-NUM_LARGEST:]):
        cap = CAPS[path.suffix]
        sys.stdout.write(f"{num_lines(path):>5} of {cap}  {path.relative_to(ROOT)}\n")
    for module in sorted(ROOT.glob(".venv/lib/python*/site-packages/autoglm/_core*.so")):
        sys.stdout.write(f"\n{module.name}: {module.stat().st_size / 1024:.0f} KiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
