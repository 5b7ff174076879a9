"""Pages of the KV cache on disk: what one process has read, the next one need not read again.

Pages are sealed one by one (AES-256-GCM) in a file whose key, and the list of what is in it, lie in
a store that encrypts, the vault. Every file has a key of its own, so a number serves as nonce.
"""

from __future__ import annotations

import hashlib
import os
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from autoglm.errors import StorageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

COLLECTION = "kv-cache"
SUFFIX = ".kv"
PAGE_TOKENS = 64
TAG_BYTES = 16
KEY_BYTES = 32
NAME_BYTES = 16
DIGEST_BYTES = 16


class PagedModel(Protocol):
    """A model whose cached pages can be taken out and put back."""

    @property
    def page_bytes(self) -> int:
        """The size of a page."""

    def num_cached(self, ids: Sequence[int]) -> int:
        """How many leading tokens have pages."""

    def cached_prefixes(self) -> list[list[int]]:
        """The token ids that pages stand for, the latest used first."""

    def read_page(self, ids: Sequence[int]) -> bytes | None:
        """The page that ends with the last of `ids`, None when it is gone."""

    def write_page(self, ids: Sequence[int], data: bytes) -> bool:
        """Put a page back; False when those before it are missing or there is no room."""


class SecretStore(Protocol):
    """The part of a vault that is needed."""

    def get(self, collection: str, key: bytes) -> bytes | None:
        """The value, None when there is none."""

    def put(self, collection: str, key: bytes, value: bytes) -> int:
        """Set a value."""


class SavedPages:
    """The saved pages of one model. Safe to use from several threads."""

    def __init__(
        self,
        directory: Path,
        secrets: SecretStore,
        model: PagedModel,
        identity: bytes,
        *,
        max_bytes: int,
    ) -> None:
        """`identity` covers everything on which the content of a page depends."""
        self._directory = directory
        self._secrets = secrets
        self._model = model
        self._identity = hashlib.blake2b(identity, digest_size=DIGEST_BYTES).digest()
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._places: dict[bytes, int] = {}
        self._file: Path | None = None
        self._cipher: AESGCM | None = None
        self._open()

    @property
    def num_pages(self) -> int:
        """How many pages can be restored."""
        return len(self._places)

    def _open(self) -> None:
        """Find what was saved."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        record = self._secrets.get(COLLECTION, self._identity)
        if record is None:
            return
        key, name = record[:KEY_BYTES], record[KEY_BYTES : KEY_BYTES + NAME_BYTES]
        digests = record[KEY_BYTES + NAME_BYTES :]
        self._places = {
            digests[start : start + DIGEST_BYTES]: start // DIGEST_BYTES
            for start in range(0, len(digests), DIGEST_BYTES)
        }
        self._cipher = AESGCM(key)
        self._file = self._path(name)

    def _path(self, name: bytes) -> Path:
        return self._directory / f"{self._identity.hex()}-{name.hex()}{SUFFIX}"

    def restore(self, ids: Sequence[int]) -> int:
        """Put back the pages with which `ids` begin; returns how many tokens they hold.

        A file that is gone or damaged restores nothing, now and later.
        """
        with self._lock:
            if not self._places or self._file is None:
                return 0
            wanted = self._missing(ids)
            if not wanted:
                return 0
            try:
                with self._file.open("rb", buffering=0) as file:
                    return self._restore(file.fileno(), ids, wanted)
            except OSError:
                self._forget()
                return 0

    def _missing(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """(Tokens up to the end of a page, its place in the file), for pages not in the cache."""
        num_cached = self._model.num_cached(ids)
        wanted = []
        # The last token is computed in any case.
        for end, digest in self._digests(ids[: len(ids) - 1]):
            place = self._places.get(digest)
            if place is None:
                break
            if end > num_cached:
                wanted.append((end, place))
        return wanted

    def _restore(self, file: int, ids: Sequence[int], wanted: list[tuple[int, int]]) -> int:
        num_restored = 0
        for end, place in wanted:
            page = self._unsealed(file, place)
            if page is None:
                self._forget()
                break
            if not self._model.write_page(ids[:end], page):
                break
            num_restored += PAGE_TOKENS
        return num_restored

    def _unsealed(self, file: int, place: int) -> bytes | None:
        """A page of the file, None when it is damaged."""
        from cryptography.exceptions import InvalidTag

        size = self._model.page_bytes + TAG_BYTES
        sealed = os.pread(file, size, place * size)
        if self._cipher is None or len(sealed) != size:
            return None
        try:
            return self._cipher.decrypt(_nonce(place), sealed, self._identity)
        except InvalidTag:
            return None

    def _forget(self) -> None:
        self._places, self._file, self._cipher = {}, None, None

    def save(self) -> int:
        """Write the pages that are in the cache, the latest used first, then those saved before.

        Returns the bytes written, 0 when nothing is new. The file before is replaced when the new
        one is whole. Raises StorageError, VaultError.
        """
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key, name = AESGCM.generate_key(8 * KEY_BYTES), os.urandom(NAME_BYTES)
        path = self._path(name)
        with self._lock:
            pages = self._cached()
            if pages.keys() <= self._places.keys():
                return 0
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                digests = self._write(path, AESGCM(key), pages)
                self._secrets.put(COLLECTION, self._identity, key + name + b"".join(digests))
                self._remove_others(path)
            except OSError as err:
                with suppress(OSError):
                    path.unlink()
                message = f"cannot save the KV cache in {self._directory}: {err.strerror or err}"
                raise StorageError(message) from err
            self._file, self._cipher = path, AESGCM(key)
            self._places = {digest: place for place, digest in enumerate(digests)}
        return len(digests) * self._model.page_bytes

    def _cached(self) -> dict[bytes, list[int]]:
        """What names the pages in the cache, and the tokens up to the end of each."""
        pages: dict[bytes, list[int]] = {}
        for ids in self._model.cached_prefixes():
            for end, digest in self._digests(ids):
                pages.setdefault(digest, ids[:end])
        return pages

    def _write(self, path: Path, cipher: AESGCM, cached: dict[bytes, list[int]]) -> list[bytes]:
        """Seal pages into a new file, as many as may be; returns their digests in order."""
        most = self._max_bytes // (self._model.page_bytes + TAG_BYTES)
        digests: list[bytes] = []
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for digest, page in self._all_pages(cached):
                if len(digests) >= most:
                    break
                if page is not None:
                    file.write(cipher.encrypt(_nonce(len(digests)), page, self._identity))
                    digests.append(digest)
            os.fsync(file.fileno())
        return digests

    def _all_pages(self, cached: dict[bytes, list[int]]) -> Iterator[tuple[bytes, bytes | None]]:
        for digest, ids in cached.items():
            yield digest, self._model.read_page(ids)
        if self._file is None or not self._file.exists():
            return
        with self._file.open("rb", buffering=0) as file:
            for digest, place in self._places.items():
                if digest not in cached:
                    yield digest, self._unsealed(file.fileno(), place)

    def _remove_others(self, kept: Path) -> None:
        """Files of this model before, and the oldest of other models beyond the bound."""
        room = self._max_bytes
        files = sorted(self._directory.glob(f"*{SUFFIX}"), key=lambda file: -file.stat().st_mtime)
        for file in files:
            is_ours = file.name.startswith(self._identity.hex())
            room -= file.stat().st_size
            if file != kept and (is_ours or room < 0):
                file.unlink()

    def _digests(self, ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """For every whole page of `ids`: where it ends, and what names all tokens up to there."""
        digest = self._identity
        for end in range(PAGE_TOKENS, len(ids) + 1, PAGE_TOKENS):
            page = array("i", ids[end - PAGE_TOKENS : end]).tobytes()
            digest = hashlib.blake2b(digest + page, digest_size=DIGEST_BYTES).digest()
            yield end, digest


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
