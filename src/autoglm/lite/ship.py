"""Carries a folder through a channel that takes only small files: packed token files, weights.

`python -m autoglm.lite.ship pack DIR PIECES --mib 30` compresses a folder into numbered pieces;
`python -m autoglm.lite.ship unpack PIECES DIR` puts it back. Needs the standard library alone.
"""

import argparse
import lzma
import shutil
import tarfile
import tempfile
from pathlib import Path

from autoglm.errors import InputError

_MIB = 2**20


def pack(folder: Path, pieces: Path, piece_bytes: int) -> int:
    """Write the files of a folder as pieces of at most `piece_bytes`; returns how many."""
    pieces.mkdir(parents=True, exist_ok=True)
    count = 0
    with tempfile.TemporaryFile(dir=pieces) as whole:
        with tarfile.open(fileobj=whole, mode="w:xz", preset=4) as archive:
            for path in sorted(folder.iterdir()):
                if path.is_file():
                    archive.add(path, arcname=path.name)
        whole.seek(0)
        while data := whole.read(piece_bytes):
            (pieces / f"piece_{count:03d}").write_bytes(data)
            count += 1
    return count


def unpack(pieces: Path, folder: Path) -> None:
    """Put a packed folder back. Raises InputError when a piece is missing or damaged."""
    found = sorted(pieces.glob("piece_*"))
    names = [f"piece_{index:03d}" for index in range(len(found))]
    if not found or [path.name for path in found] != names:
        message = f"{pieces}: has {len(found)} pieces and not all up to the last; carry the rest"
        raise InputError(message)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as whole:
        for path in found:
            with path.open("rb") as piece:
                shutil.copyfileobj(piece, whole)
        whole.seek(0)
        try:
            with tarfile.open(fileobj=whole, mode="r:xz") as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, lzma.LZMAError, EOFError) as err:
            message = f"{pieces}: the pieces do not make a whole; carry them again"
            raise InputError(message) from err


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--mib", type=float, default=30.0, help="largest piece")
    args = parser.parse_args()
    if args.action == "pack":
        pack(args.source, args.target, int(args.mib * _MIB))
    else:
        unpack(args.source, args.target)


if __name__ == "__main__":
    main()
