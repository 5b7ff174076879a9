"""Opening the files of a model directory: regular, inside the directory, bounded in size.

A hub cache keeps its snapshots as links into a sibling `blobs` folder; that one escape is allowed.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from autoglm.errors import ModelFileError, ModelNotFoundError, StorageError

_MAX_NAME_BYTES = 255


def resolve_inside(directory: Path, name: str) -> Path:
    """The real path of `name` in `directory`; ModelFileError when it lies elsewhere."""
    is_plain = name.isprintable() and not {"/", "\\"} & set(name) and name not in {"", ".", ".."}
    if not is_plain or len(name.encode()) > _MAX_NAME_BYTES:
        message = f"{directory}: {name[:80]!r} is not the name of a file in this directory"
        raise ModelFileError(message)
    root = Path(os.path.realpath(directory))
    path = Path(os.path.realpath(root / name))
    if path.parent == root or path.parent == _hub_blobs(root):
        return path
    message = f"{directory}: '{name}' is a link that leads out of the model directory"
    raise ModelFileError(message)


def _hub_blobs(root: Path) -> Path | None:
    snapshots = root.parent
    repository = snapshots.parent
    if snapshots.name == "snapshots" and repository.name.startswith("models--"):
        return repository / "blobs"
    return None


def model_directory(path: Path) -> Path:
    """`path` if it is a directory; ModelNotFoundError otherwise."""
    if path.is_dir():
        return path
    problem = "is not a directory" if path.exists() else "does not exist"
    message = f"{path}: the model directory {problem}"
    raise ModelNotFoundError(message)


def open_regular(path: Path) -> tuple[int, int]:
    """Open a regular file for reading: file descriptor and size in bytes.

    Pipes and devices are refused without waiting for them; so are links, which `resolve_inside` has
    followed already.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as err:
        message = f"{path}: no such file"
        raise ModelNotFoundError(message) from err
    except OSError as err:
        message = f"{path}: cannot be opened: {err.strerror}"
        error = ModelFileError if err.errno in {errno.ELOOP, errno.ENOTDIR} else StorageError
        raise error(message) from err
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        return descriptor, status.st_size
    os.close(descriptor)
    message = f"{path}: is not a regular file"
    raise ModelFileError(message)


def read_exactly(descriptor: int, num_bytes: int, offset: int, path: Path) -> bytes:
    """`num_bytes` from `offset`; ModelFileError when the file ends before."""
    pieces: list[bytes] = []
    left = num_bytes
    while left:
        try:
            piece = os.pread(descriptor, min(left, 1 << 30), offset)
        except OSError as err:
            message = f"{path}: reading failed: {err.strerror}"
            raise StorageError(message) from err
        if not piece:
            message = f"{path}: ends at byte {offset}, {left} bytes too early"
            raise ModelFileError(message)
        pieces.append(piece)
        left -= len(piece)
        offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The whole file; ModelFileError when it is larger than `max_bytes`."""
    descriptor, size = open_regular(path)
    try:
        if size > max_bytes:
            message = f"{path}: has {size} bytes, at most {max_bytes} are read"
            raise ModelFileError(message)
        return read_exactly(descriptor, size, 0, path)
    finally:
        os.close(descriptor)
