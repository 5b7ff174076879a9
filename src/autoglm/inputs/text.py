"""Reads a text file or standard input: UTF-8, bounded, with plain line ends.

Every fault is an InputError of one line that names the input, never its content.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from autoglm.errors import InputError

DEFAULT_MAX_BYTES = 16 * 2**20
_BOM = b"\xef\xbb\xbf"


def read_text(
    source: str, *, max_bytes: int = DEFAULT_MAX_BYTES, stdin: BinaryIO | None = None
) -> str:
    """The text of a file, or of standard input for `-`.

    Raises InputError for a missing, empty, binary (a NUL byte), non-UTF-8 or too large input.
    """
    if source == "-":
        name, data = "standard input", _read(stdin or sys.stdin.buffer, max_bytes)
    else:
        name, data = source, _read_file(source, max_bytes)
    if len(data) > max_bytes:
        message = f"{name}: larger than {max_bytes:,} bytes; shorten it or raise max_text_mib"
        raise InputError(message)
    return _decode(name, data.removeprefix(_BOM))


def _read(stream: BinaryIO, max_bytes: int) -> bytes:
    return stream.read(max_bytes + 1)


def _read_file(source: str, max_bytes: int) -> bytes:
    try:
        with Path(source).open("rb") as stream:
            return _read(stream, max_bytes)
    except FileNotFoundError as err:
        message = f"{source}: no such file"
        raise InputError(message) from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        message = f"{source!r}: cannot be read: {getattr(err, 'strerror', None) or err}"
        raise InputError(message) from err


def _decode(name: str, data: bytes) -> str:
    nul = data.find(0)
    if nul >= 0:
        message = f"{name}: binary (NUL at byte {nul}); expected a UTF-8 text"
        raise InputError(message)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        message = f"{name}: not UTF-8 at byte {err.start}; convert it, for example with iconv"
        raise InputError(message) from err
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        message = f"{name}: empty"
        raise InputError(message)
    return text
