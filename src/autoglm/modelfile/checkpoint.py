"""A Hugging Face checkpoint: one safetensors file, or shards behind an index, read by rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from autoglm.errors import ModelConfigError, ModelFileError, ModelNotFoundError
from autoglm.modelfile.arch import Architecture
from autoglm.modelfile.files import resolve_inside
from autoglm.modelfile.layout import Matrix, Rows, Vector
from autoglm.modelfile.safetensors import TensorFile, TensorInfo
from autoglm.modelfile.strict_json import read_json

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20
MAX_SHARDS = 1024
SOURCE_DTYPES = ("F32", "F16", "BF16")

# Buffers that old versions of the reference stored and new ones recompute.
_RECOMPUTED = re.compile(r"\.rotary_emb\.inv_freq\Z")
_LAYER = re.compile(r"model\.layers\.(\d{1,6})\.")
_COMPARE_BYTES = 8 << 20


class Checkpoint:
    """The open files of a checkpoint and the tensors in them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, TensorFile] = {}
        self.tensors: dict[str, tuple[str, TensorInfo]] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def read_rows(self, rows: Rows, start: int, count: int) -> bytes:
        """`count` rows from row `start` of the piece, as they are stored."""
        shard, tensor = self.tensors[rows.source]
        row_bytes = self.row_bytes(rows)
        offset = (rows.start + start) * row_bytes
        return self._files[shard].read(tensor, offset, count * row_bytes)

    def is_zero(self, rows: Rows) -> bool:
        """Whether the piece, a small one, holds only zeros."""
        return not any(self.read_rows(rows, 0, rows.count))

    def row_bytes(self, rows: Rows) -> int:
        """Bytes of one row of the piece."""
        _, tensor = self.tensors[rows.source]
        return tensor.nbytes // tensor.shape[0]

    def dtype(self, pieces: Iterable[Rows]) -> str:
        """The one type of all pieces."""
        dtypes = {self.tensors[rows.source][1].dtype: rows.source for rows in pieces}
        if len(dtypes) == 1:
            return next(iter(dtypes))
        mixed = ", ".join(f"'{source}' is {dtype}" for dtype, source in dtypes.items())
        message = f"{self._directory}: tensors that belong together differ in type: {mixed}"
        raise ModelConfigError(message)

    def check(self, arch: Architecture, wanted: Iterable[Matrix | Vector]) -> tuple[str, ...]:
        """The names of known tensors that are not wanted.

        ModelConfigError names the first missing, mis-shaped, mistyped or unknown tensor.
        """
        known: set[str] = set()
        for tensor in wanted:
            for rows in tensor.pieces:
                self._check_tensor(rows.source, rows.source_shape)
                known.add(rows.source)
        unread = tuple(sorted(self.tensors.keys() - known))
        for name in unread:
            if not self._is_known(name, arch):
                message = (
                    f"{self._directory}: tensor '{name[:200]}' is not part of {arch.name} with "
                    "this config.json"
                )
                raise ModelConfigError(message)
        return unread

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        if (self._directory / WEIGHTS_NAME).exists():
            self._add_shard(WEIGHTS_NAME)
            return
        if not (self._directory / INDEX_NAME).exists():
            message = f"{self._directory}: has neither {WEIGHTS_NAME} nor {INDEX_NAME}"
            raise ModelNotFoundError(message)
        weight_map = _read_index(resolve_inside(self._directory, INDEX_NAME))
        for shard in sorted(set(weight_map.values())):
            self._add_shard(shard)
        for name in weight_map.keys() ^ self.tensors.keys():
            message = f"{self._directory}: index and shards disagree about tensor '{name[:200]}'"
            raise ModelFileError(message)
        for name, shard in weight_map.items():
            if self.tensors[name][0] != shard:
                message = f"{self._directory}: the index misplaces tensor '{name}' in '{shard}'"
                raise ModelFileError(message)

    def _add_shard(self, shard: str) -> None:
        file = self._files[shard] = TensorFile(resolve_inside(self._directory, shard))
        for name, tensor in file.header.tensors.items():
            if name in self.tensors:
                other = self.tensors[name][0]
                message = f"{self._directory}: tensor '{name}' is in '{other}' and '{shard}'"
                raise ModelFileError(message)
            self.tensors[name] = shard, tensor

    def _check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self.tensors:
            message = f"{self._directory}: tensor '{name}' is missing, expected {list(shape)}"
            raise ModelConfigError(message)
        _, tensor = self.tensors[name]
        if tensor.shape != shape:
            message = (
                f"{self._directory}: tensor '{name}' has shape {list(tensor.shape)}, "
                f"config.json asks for {list(shape)}"
            )
            raise ModelConfigError(message)
        if tensor.dtype not in SOURCE_DTYPES:
            message = (
                f"{self._directory}: tensor '{name}' has type {tensor.dtype}, "
                f"convertible are {', '.join(SOURCE_DTYPES)}"
            )
            raise ModelConfigError(message)

    def _is_known(self, name: str, arch: Architecture) -> bool:
        if _RECOMPUTED.search(name):
            return True
        layer = _LAYER.match(name)
        first_extra = arch.config.num_layers
        if layer and first_extra <= int(layer[1]) < first_extra + arch.num_extra_layers:
            return True
        if name == "lm_head.weight" and arch.config.tie_word_embeddings:
            self._check_tied()
            return True
        return False

    def _check_tied(self) -> None:
        """A stored head must equal the embedding that config.json says to use for it."""
        head_shard, head = self.tensors["lm_head.weight"]
        shard, embedding = self.tensors["model.embed_tokens.weight"]
        is_equal = (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
        for start in range(0, head.nbytes if is_equal else 0, _COMPARE_BYTES):
            size = min(_COMPARE_BYTES, head.nbytes - start)
            one = self._files[head_shard].read(head, start, size)
            if one != self._files[shard].read(embedding, start, size):
                is_equal = False
                break
        if not is_equal:
            message = (
                f"{self._directory}: lm_head.weight differs from model.embed_tokens.weight though "
                "config.json ties them; set tie_word_embeddings to false"
            )
            raise ModelConfigError(message)


def source_bytes(tensors: Iterable[Matrix | Vector], checkpoint: Checkpoint) -> int:
    """Bytes that will be read for these tensors."""
    return sum(
        rows.count * checkpoint.row_bytes(rows) for tensor in tensors for rows in tensor.pieces
    )


def _read_index(path: Path) -> dict[str, str]:
    index = read_json(path, max_bytes=MAX_INDEX_BYTES)
    entries = index.get("weight_map")
    if not isinstance(entries, dict) or not entries:
        message = f"{path}: has no 'weight_map' of tensors"
        raise ModelFileError(message)
    weight_map: dict[str, str] = {}
    for name, shard in entries.items():
        if not isinstance(shard, str):
            message = f"{path}: 'weight_map' names no file for tensor '{name[:200]}'"
            raise ModelFileError(message)
        weight_map[name] = shard
    if len(set(weight_map.values())) > MAX_SHARDS:
        message = f"{path}: more than {MAX_SHARDS} shards"
        raise ModelFileError(message)
    return weight_map
