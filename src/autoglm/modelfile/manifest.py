"""`manifest.json`: size and SHA-256 of every file of a bundle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from autoglm.errors import ModelFileError, ModelNotFoundError
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.files import open_regular, read_exactly, resolve_inside
from autoglm.modelfile.strict_json import read_json

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
_CHUNK_BYTES = 4 << 20
_MAX_FILE_BYTES = 1 << 48


class ManifestEntry(NamedTuple):
    """One file of the bundle."""

    name: str
    size: int
    sha256: str


def manifest_text(directory: Path) -> bytes:
    """The manifest of all files in `directory`."""
    names = sorted(path.name for path in directory.iterdir())
    files = [
        {"name": name, "size": size, "sha256": digest}
        for name, (size, digest) in ((name, _hash_file(directory / name)) for name in names)
    ]
    return json.dumps({"format": MANIFEST_FORMAT, "files": files}, indent=2).encode() + b"\n"


def read_manifest(directory: Path) -> list[ManifestEntry]:
    """The entries; ModelNotFoundError without a manifest, ModelFileError for a broken one."""
    if not (directory / MANIFEST_NAME).exists():
        message = f"{directory}: has no {MANIFEST_NAME}, so it cannot be verified"
        raise ModelNotFoundError(message)
    path = resolve_inside(directory, MANIFEST_NAME)
    fields = Fields(read_json(path), str(path))
    fields.integer("format", MANIFEST_FORMAT, MANIFEST_FORMAT)
    files = fields.objects("files")
    if not files:
        fields.refuse("files", "a list of files")
    entries = [
        ManifestEntry(
            file.text("name"), file.integer("size", 0, _MAX_FILE_BYTES), file.text("sha256")
        )
        for file in files
    ]
    if len({entry.name for entry in entries}) != len(entries):
        fields.refuse("files", "each name once")
    return entries


def check_manifest(directory: Path, *, progress: Callable[[int, int], None]) -> int:
    """Compare every file with the manifest; returns the bytes compared."""
    entries = read_manifest(directory)
    listed = {entry.name for entry in entries} | {MANIFEST_NAME}
    for path in sorted(directory.iterdir()):
        if path.name not in listed:
            message = f"{path}: is not in {MANIFEST_NAME}; it was added after the conversion"
            raise ModelFileError(message)
    paths = {entry: resolve_inside(directory, entry.name) for entry in entries}
    for entry, path in paths.items():
        _check_size(entry, path)
    total = sum(entry.size for entry in entries)
    done = 0
    for entry, path in paths.items():
        _, digest = _hash_file(path)
        if digest != entry.sha256:
            message = f"{path}: SHA-256 is {digest}, {MANIFEST_NAME} says {entry.sha256[:64]}"
            raise ModelFileError(message)
        done += entry.size
        progress(done, total)
    return total


def _check_size(entry: ManifestEntry, path: Path) -> None:
    descriptor, size = open_regular(path)
    os.close(descriptor)
    if size != entry.size:
        message = f"{path}: has {size} bytes, {MANIFEST_NAME} says {entry.size}"
        raise ModelFileError(message)


def _hash_file(path: Path) -> tuple[int, str]:
    descriptor, size = open_regular(path)
    digest = hashlib.sha256()
    try:
        for offset in range(0, size, _CHUNK_BYTES):
            digest.update(read_exactly(descriptor, min(_CHUNK_BYTES, size - offset), offset, path))
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()
