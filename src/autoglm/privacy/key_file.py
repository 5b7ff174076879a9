"""A secret of 32 random bytes in a file that only its owner may read, and keys derived from it."""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path

from autoglm.errors import StorageError

SECRET_BYTES = 32


def create_secret(path: Path) -> bytes:
    """The secret in the file, which is made if missing. Raises StorageError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The file appears whole: a link is made to a complete one, and only if none is there.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, os.urandom(SECRET_BYTES))
        os.fsync(descriptor)
        path.hardlink_to(draft)
        sync_directory(path.parent)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)
        draft.unlink()
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """The secret in the file, which must be private. Raises FileNotFoundError and StorageError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as err:
        message = f"{path}: {err.strerror}; a key file must be an ordinary file"
        raise StorageError(message) from err
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            message = f"{path}: a key file must be an ordinary file of your own"
            raise StorageError(message)
        if status.st_mode & 0o077:
            message = f"{path}: others may read this key file; run: chmod 600 on it"
            raise StorageError(message)
        secret = os.read(descriptor, SECRET_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(secret) != SECRET_BYTES:
        message = f"{path}: a key file has {SECRET_BYTES} bytes; restore it from a copy"
        raise StorageError(message)
    return secret


def destroy_secret(path: Path) -> None:
    """Overwrite and remove the file, if it is there."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.write(bytes(SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_directory(path.parent)


def key_for(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose, from which the secret cannot be learned (HMAC-SHA-256)."""
    return hmac.digest(secret, f"autoglm privacy 1 {purpose}".encode(), "sha256")


def sync_directory(path: Path) -> None:
    """Make names that were added to or removed from a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
