"""A directory that appears whole or not at all: built beside its place, synced, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from autoglm.errors import StorageError
from autoglm.modelfile.safetensors_writer import storage_error


@contextlib.contextmanager
def staged_directory(out: Path) -> Iterator[Path]:
    """A fresh directory to fill; becomes `out` when the block ends without an error.

    StorageError when `out` is there already and not an empty directory, or cannot be written.
    """
    target = Path(os.path.realpath(out))
    try:
        refuse_contents(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
        stage.mkdir()
    except OSError as err:
        raise storage_error(out, err) from err
    try:
        yield stage
        try:
            sync_directory(stage)
            stage.rename(target)
            sync_directory(target.parent)
        except OSError as err:
            raise storage_error(out, err) from err
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Create a file with these bytes, on the disk before it returns."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        raise storage_error(path, err) from err


def refuse_contents(target: Path) -> None:
    """Raise StorageError when there is something at `target` but an empty directory."""
    if not target.exists():
        return
    if not target.is_dir() or any(target.iterdir()):
        message = f"{target}: exists already; remove it or name another place"
        raise StorageError(message)


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
