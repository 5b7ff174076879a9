"""Write a bundle's manifest anew, after its reader was trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoglm.modelfile.manifest import MANIFEST_NAME, manifest_text


def main() -> None:
    """Parse the option and write."""
    parser = argparse.ArgumentParser(prog="python -m autoglm.lite.reader_training.manifest")
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    path: Path = parser.parse_args().bundle / MANIFEST_NAME
    path.unlink(missing_ok=True)
    path.write_bytes(manifest_text(path.parent))


if __name__ == "__main__":
    main()
