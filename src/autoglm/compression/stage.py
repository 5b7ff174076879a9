"""The unfinished bundle of a compression: a directory beside its place that survives a kill.

A journal names the finished units and the SHA-256 of each of their tensors. Who comes back with
the same job finds them, verified; the directory becomes the bundle in one step at the end.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from autoglm.errors import AutoGLMError, CancelledError, ResourceError, StorageError
from autoglm.modelfile.bundle import WEIGHTS_NAME
from autoglm.modelfile.manifest import MANIFEST_NAME, manifest_text
from autoglm.modelfile.safetensors_writer import SafetensorsWriter, TensorSpec, storage_error
from autoglm.modelfile.staging import refuse_contents, sync_directory, write_file

_JOURNAL = "journal.jsonl"


class Stage:
    """The weights file under construction and what of it is finished."""

    def __init__(self, out: Path, job: str, specs: Sequence[TensorSpec]) -> None:
        """Open the stage of `out`; what another `job` has left there is removed.

        StorageError when `out` is taken, cannot be written or is being written by another process.
        """
        self._target = Path(os.path.realpath(out))
        self._root = self._target.parent / f".{self._target.name}.compress"
        self._bundle = self._root / "bundle"
        self._hashes: dict[str, str] = {}
        self._finished: dict[str, dict[str, str]] = {}
        try:
            refuse_contents(self._target)
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise storage_error(out, err) from err
        try:
            self._take_lock()
            self._open(job, specs)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def num_bytes(self) -> int:
        """The size of the weights file."""
        return self._writer.num_bytes

    def is_finished(self, unit: str) -> bool:
        """Whether an earlier run has finished the unit and its bytes are still what they were."""
        hashes = self._finished.get(unit)
        if hashes is None:
            return False
        for name, wanted in hashes.items():
            digest = hashlib.sha256()
            for data in self._writer.read(name):
                digest.update(data)
            if digest.hexdigest() != wanted:
                return False
        for name in hashes:
            self._writer.skip(name)
        return True

    def append(self, name: str, data: bytes) -> None:
        """Write the next bytes of tensor `name`."""
        self._writer.append(name, data)

    def read(self, name: str) -> bytes:
        """A finished tensor."""
        return b"".join(self._writer.read(name))

    def finish_unit(self, unit: str, names: Sequence[str]) -> None:
        """Note that these tensors, the unit's, are written; they are on the disk first."""
        hashes: dict[str, str] = {}
        for name in names:
            digest = hashlib.sha256()
            for data in self._writer.read(name):
                digest.update(data)
            hashes[name] = digest.hexdigest()
        self._writer.sync()
        self._note(unit, hashes)

    def finish(
        self, files: Mapping[str, bytes], *, last: Callable[[Path], Mapping[str, bytes]]
    ) -> None:
        """Add the small files and put the bundle into its place.

        `last` makes files from the bundle that is otherwise complete.
        """
        self._writer.finish()
        self._writer.close()
        for path in self._bundle.iterdir():
            if path.name != WEIGHTS_NAME:
                path.unlink()
        for name, data in files.items():
            write_file(self._bundle / name, data)
        for name, data in last(self._bundle).items():
            write_file(self._bundle / name, data)
        write_file(self._bundle / MANIFEST_NAME, manifest_text(self._bundle))
        try:
            sync_directory(self._bundle)
            self._bundle.rename(self._target)
            sync_directory(self._target.parent)
        except OSError as err:
            raise storage_error(self._target, err) from err
        shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; a fault that a later run would meet again leaves nothing behind."""
        self._writer.close()
        os.close(self._lock)
        may_go_on = isinstance(error, StorageError | ResourceError | CancelledError)
        if isinstance(error, AutoGLMError) and not may_go_on:
            shutil.rmtree(self._root, ignore_errors=True)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            message = f"{self._target}: another process is writing it"
            raise StorageError(message) from err

    def _open(self, job: str, specs: Sequence[TensorSpec]) -> None:
        weights = self._bundle / WEIGHTS_NAME
        entries = self._read_journal()
        is_resumed = bool(entries) and entries[0] == ("job", {"id": job}) and weights.exists()
        try:
            if not is_resumed:
                shutil.rmtree(self._bundle, ignore_errors=True)
                (self._root / _JOURNAL).unlink(missing_ok=True)
                self._bundle.mkdir()
        except OSError as err:
            raise storage_error(self._root, err) from err
        try:
            self._writer = SafetensorsWriter(weights, specs, is_resumed=is_resumed)
        except StorageError:
            if not is_resumed:  # what could be reserved is of no use
                shutil.rmtree(self._root, ignore_errors=True)
            raise
        if is_resumed:
            self._finished = dict(entries[1:])
        else:
            self._writer.sync()
            self._note("job", {"id": job})

    def _read_journal(self) -> list[tuple[str, dict[str, str]]]:
        """The whole lines; half of one, as a kill can leave it, is cut off."""
        path = self._root / _JOURNAL
        if not path.exists():
            return []
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        os.truncate(path, len(whole) + 1 if whole else 0)
        try:
            return [(name, dict(entry)) for name, entry in map(json.loads, whole.splitlines())]
        except (ValueError, TypeError):
            return []

    def _note(self, name: str, entry: Mapping[str, str]) -> None:
        try:
            with (self._root / _JOURNAL).open("ab") as file:
                file.write(json.dumps([name, entry]).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            raise storage_error(self._root, err) from err
