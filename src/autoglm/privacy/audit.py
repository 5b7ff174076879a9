"""The log of what left: one line an egress, chained by keyed hashes, never with a value.

A changed, removed or added line breaks the chain; the last hash is kept in a second file, so that a
shortened log is noticed too. Several processes may write.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from autoglm.errors import PrivacyError, StorageError

_START = "0" * 64
_TAIL_BYTES = 65_536


class Egress(NamedTuple):
    """What happened at the boundary: names, counts and sizes."""

    message: str
    decision: str
    fields: Mapping[str, str]
    dropped: int
    removed: Mapping[str, int]
    num_bytes: int


class AuditLog:
    """An append-only log in a file."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._head = path.with_name(path.name + ".head")
        self._key = key

    def append(self, egress: Egress, *, time_s: float) -> None:
        """Add a line; it is on the disk when this returns. Raises StorageError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked() as file:
                number, previous = _last(file)
                self._check_head(number, previous)
                entry = {"n": number + 1, "time": round(time_s, 3), **egress._asdict()}
                body = json.dumps(entry, ensure_ascii=False, sort_keys=True)
                link = self._link(previous, body)
                file.seek(0, os.SEEK_END)
                file.write(f"{link} {body}\n".encode())
                file.flush()
                os.fsync(file.fileno())
                self._write_head(number + 1, link)
        except OSError as err:
            message = f"audit log {self._path}: {err.strerror or err}; nothing was sent"
            raise StorageError(message) from err

    def verify(self) -> int:
        """Check the whole chain and return the number of lines. Raises PrivacyError."""
        head = self._read_head()
        number, previous = 0, _START
        is_head_found = head == (0, _START)
        for number, line in enumerate(self._lines(), start=1):
            link, _, body = line.partition(" ")
            if not _is_equal(link, self._link(previous, body)):
                message = f"audit log {self._path}: line {number} is not what was written"
                raise PrivacyError(message)
            previous = link
            is_head_found |= head == (number, link)
        # The head is written without an fsync: after a power loss it may lag, never lead.
        if not is_head_found:
            message = f"audit log {self._path}: its end is missing, or {self._head} is"
            raise PrivacyError(message)
        return number

    def entries(self) -> Iterator[dict[str, object]]:
        """The entries, oldest first."""
        for line in self._lines():
            entry: dict[str, object] = json.loads(line.partition(" ")[2])
            yield entry

    def _lines(self) -> Iterator[str]:
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            for line in file:
                yield line.rstrip("\n")

    def _link(self, previous: str, body: str) -> str:
        return hmac.digest(self._key, f"{previous} {body}".encode(), "sha256").hex()

    def _check_head(self, number: int, previous: str) -> None:
        """Refuse to go on after a log that was shortened, which would hide it."""
        if number == 0 and not self._head.exists():
            return
        head = self._read_head()
        if head is None or head[0] > number or (head[0] == number and head[1] != previous):
            message = f"audit log {self._path}: its end is missing; nothing was sent"
            raise PrivacyError(message)

    def _write_head(self, number: int, link: str) -> None:
        draft = self._head.with_name(self._head.name + ".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"{number} {link} {self._link(link, str(number))}\n")
        draft.replace(self._head)

    def _read_head(self) -> tuple[int, str] | None:
        if not self._head.exists():
            return (0, _START) if not self._path.exists() else None
        parts = self._head.read_text(encoding="utf-8", errors="replace").split()
        if len(parts) != 3 or not _is_equal(parts[2], self._link(parts[1], parts[0])):
            return None
        return int(parts[0]), parts[1]

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def _is_equal(found: str, expected: str) -> bool:
    return hmac.compare_digest(found.encode(), expected.encode())


def _last(file: IO[bytes]) -> tuple[int, str]:
    """Number and hash of the last line. Half a line was cut off by a crash before anything left."""
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    whole = tail[: tail.rfind(b"\n") + 1]
    if len(whole) < len(tail):
        file.truncate(start + len(whole))
    if not whole:
        return 0, _START
    link, _, body = whole[:-1].rpartition(b"\n")[2].partition(b" ")
    try:
        return int(json.loads(body)["n"]), link.decode()
    except (ValueError, KeyError, TypeError) as err:
        message = "the audit log ends in a line that is none; autoglm privacy audit shows where"
        raise PrivacyError(message) from err
