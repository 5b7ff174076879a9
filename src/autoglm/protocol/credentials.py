"""How a device proves who it is: a private file with a token, which is renewed before it ends.

The token goes over https or to this machine only, and the file is written whole or not at all.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

from autoglm.errors import CloudError, StorageError, UsageError
from autoglm.protocol.plain import call, tls_context

TOKEN_PATH = "/v1/token"
# A token is renewed this long before it ends.
EARLY_S = 60.0
TIMEOUT_S = 10.0
LOOPBACK = ("http://127.0.0.1:", "http://localhost:", "http://[::1]:")


def check_address(address: str) -> None:
    """Raises UsageError for an address that would send a token in the clear."""
    if not address.startswith(("https://", *LOOPBACK)):
        message = f"{address}: a token goes over https only, or to this machine"
        raise UsageError(message)


def credentials_path(environ: Mapping[str, str]) -> Path:
    """Where the credentials of this device's user are kept."""
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config"
    return Path(base) / "autoglm" / "cloud.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An address and tokens for it. Files are in PEM; `certificate` and `key` are the device's."""

    address: str
    token: str
    renewal: str
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext | None:
        """TLS towards the service. Raises UsageError for a file that is not good."""
        if not self.address.startswith("https://"):
            return None
        try:
            return tls_context(self.authority, self.certificate, self.key)
        except OSError as err:
            message = f"the certificates for {self.address}: {err}"
            raise UsageError(message) from err

    def exchanged(self, proof: str) -> Credentials:
        """The same with new tokens for an invitation or a renewal. Raises CloudError."""
        check_address(self.address)
        try:
            status, body = call(
                self.address,
                "POST",
                TOKEN_PATH,
                headers={"authorization": f"Bearer {proof}"},
                context=self.context(),
                timeout_s=TIMEOUT_S,
            )
            if status == HTTPStatus.UNAUTHORIZED:
                message = (
                    f"{self.address} refused this invitation or renewal: it is none, was used or "
                    "is too old; enrol the device with a new invitation"
                )
                raise CloudError(message)
            found = json.loads(body)
            return replace(self, token=str(found["token"]), renewal=str(found["renewal"]))
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as err:
            message = f"no token could be had from {self.address} ({type(err).__name__})"
            raise CloudError(message) from err


class CredentialFile:
    """The credentials in a file. For any number of threads and processes."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._lock = threading.Lock()
        self._latest: Credentials | None = None

    def load(self) -> Credentials:
        """What the file holds. Raises UsageError when there is none, StorageError for a bad one."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError as err:
            message = f"{self._path}: no credentials; run: autoglm cloud enrol --address URL"
            raise UsageError(message) from err
        except (OSError, UnicodeDecodeError) as err:
            message = f"{self._path}: {err}"
            raise StorageError(message) from err
        if self._path.stat().st_mode & 0o077:
            message = f"{self._path}: others may read these tokens; run: chmod 600 on it"
            raise StorageError(message)
        try:
            return Credentials(**json.loads(text))
        except (ValueError, TypeError) as err:
            message = f"{self._path}: no credentials of a cloud; enrol this device again"
            raise StorageError(message) from err

    def save(self, credentials: Credentials) -> None:
        """Replace the file, readable by its owner only."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            with suppress(FileNotFoundError):
                draft.unlink()
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(credentials), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as err:
            message = f"{self._path}: {err.strerror or err}"
            raise StorageError(message) from err
        self._latest = credentials

    def token(self) -> str:
        """A token that is good for a while yet. Raises CloudError, StorageError, UsageError."""
        with self._lock:
            latest = self._latest
            if latest is None or self._is_old(latest.token):
                latest = self._latest = self._renewed()
            return latest.token

    def _renewed(self) -> Credentials:
        """The file's credentials, renewed by one process at a time."""
        lock = self._path.with_name(f".{self._path.name}.lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as err:
            message = f"{lock}: {err.strerror or err}"
            raise StorageError(message) from err
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another process may have renewed it meanwhile.
            found = self.load()
            if self._is_old(found.token):
                found = found.exchanged(found.renewal)
                self.save(found)
            return found
        finally:
            os.close(descriptor)

    def _is_old(self, token: str) -> bool:
        return _end_of(token) - EARLY_S < self._now()


def _end_of(token: str) -> float:
    """When a JWT ends, 0 if it does not say. Its signature is the service's business."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["exp"])
    except (binascii.Error, IndexError, KeyError, TypeError, ValueError):
        return 0.0
