"""Bounded JSON objects from untrusted files (RFC 8259, with duplicate keys and NaN refused).

Depth and the number of containers are counted before parsing, so memory stays a small multiple of
the file's size.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from autoglm.errors import ModelFileError
from autoglm.modelfile.files import read_bounded

MAX_DEPTH = 32
MAX_CONTAINERS = 65_536
MAX_CONFIG_BYTES = 4 << 20

_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def read_json(
    path: Path, *, max_bytes: int = MAX_CONFIG_BYTES, max_containers: int = MAX_CONTAINERS
) -> dict[str, object]:
    """The object in a JSON file; ModelFileError for anything else."""
    return parse_json(read_bounded(path, max_bytes), str(path), max_containers=max_containers)


def parse_json(
    data: bytes, where: str, *, max_containers: int = MAX_CONTAINERS
) -> dict[str, object]:
    """Parse one JSON object; `where` names it in errors."""
    _check_structure(data, where, max_containers)
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as err:
        message = f"{where}: is not valid JSON: {err}"
        raise ModelFileError(message) from err
    if isinstance(value, dict):
        return value
    message = f"{where}: holds {type(value).__name__}, expected a JSON object"
    raise ModelFileError(message)


def _check_structure(data: bytes, where: str, max_containers: int) -> None:
    depth = containers = 0
    for match in _STRUCTURE.finditer(data):
        byte = data[match.start()]
        if byte in b"[{":
            depth += 1
            containers += 1
        elif byte in b"]}":
            depth -= 1
        if depth > MAX_DEPTH or containers > max_containers:
            message = (
                f"{where}: JSON nested deeper than {MAX_DEPTH} or with more than "
                f"{max_containers} containers"
            )
            raise ModelFileError(message)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            message = f"key {key[:80]!r} occurs twice"
            raise ValueError(message)
        seen.add(key)
    return result


def _refuse_constant(constant: str) -> float:
    message = f"{constant} is not a JSON number"
    raise ValueError(message)
