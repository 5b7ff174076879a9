"""A connection to the cloud service: HTTP/2 with a token, over TLS, and one kind of error.

Needs the extra `sync`. Redirects are not followed: the token goes nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

from connectrpc.client import ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec
from connectrpc.errors import ConnectError
from pyqwest import HTTPVersion, ReadError, RemoteProtocolError, StreamError, WriteError
from pyqwest import SyncClient as HttpClient
from pyqwest import SyncHTTPTransport as HttpTransport

from autoglm.errors import CloudError, InvalidRequestError, SyncError, UsageError
from autoglm.protocol.credentials import CredentialFile, check_address
from autoglm.protocol.plain import call, tls_context

CONNECT_S = 2.0
READ_S = 10.0
PROBE_S = 2.0

# What another attempt cannot mend.
_FINAL = {
    Code.INVALID_ARGUMENT: InvalidRequestError,
    Code.FAILED_PRECONDITION: SyncError,
}
_HOPELESS = (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED, Code.NOT_FOUND)


class UnreachableError(CloudError):
    """A failure that another attempt may mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the service is and who asks. Files are in PEM; `certificate` and `key` are ours.

    `token` may be a function that gives one for each call, as `CredentialFile.token` does.
    """

    address: str
    token: str | Callable[[], str]
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    connect_s: float = CONNECT_S
    read_s: float = READ_S

    def __post_init__(self) -> None:
        """Raises UsageError for an address that would send the token in the clear."""
        check_address(self.address)

    @classmethod
    def of(cls, file: CredentialFile) -> Endpoint:
        """The endpoint of an enrolled device. Raises UsageError, StorageError."""
        found = file.load()
        return cls(
            address=found.address,
            token=file.token,
            authority=found.authority,
            certificate=found.certificate,
            key=found.key,
        )


class Channel:
    """One HTTP/2 connection, made when it is first used. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.client = self._connected()

    @property
    def headers(self) -> dict[str, str]:
        """What every call carries. Raises CloudError when no token can be had."""
        token = self._endpoint.token
        return {"authorization": f"Bearer {token if isinstance(token, str) else token()}"}

    def probe(self) -> float:
        """The milliseconds until a service that takes work has answered on a new connection.

        Raises OSError.
        """
        endpoint = self._endpoint
        context = None
        if endpoint.address.startswith("https://"):
            context = tls_context(endpoint.authority, endpoint.certificate, endpoint.key)
        start = time.perf_counter()
        try:
            status, _ = call(
                endpoint.address,
                "GET",
                "/healthz?ready",
                headers={},
                context=context,
                timeout_s=PROBE_S,
            )
        except HTTPException as err:
            raise OSError(str(err)) from err
        if status != HTTPStatus.OK:
            message = f"the service is not ready ({status})"
            raise OSError(message)
        return (time.perf_counter() - start) * 1e3

    def renew(self) -> None:
        """Use another connection from now on: one that went silent may never speak again."""
        self.client = self._connected()

    def _connected(self) -> ConnectClientSync:
        endpoint = self._endpoint
        transport = HttpTransport(
            tls_ca_cert=_content(endpoint.authority),
            tls_include_system_certs=endpoint.authority is None,
            tls_cert=_content(endpoint.certificate),
            tls_key=_content(endpoint.key),
            http_version=HTTPVersion.HTTP2,
            connect_timeout=endpoint.connect_s,
            read_timeout=endpoint.read_s,
            follow_redirects=False,
            enable_otel=False,
        )
        return ConnectClientSync(
            endpoint.address,
            codec=google_protobuf_binary_codec(),
            accept_compression=(),
            send_compression=None,
            http_client=HttpClient(transport),
        )


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as err:
        message = f"{path}: {err.strerror or err}"
        raise UsageError(message) from err


@contextmanager
def translated() -> Iterator[None]:
    """Failures of a call as CloudError, SyncError or InvalidRequestError."""
    try:
        yield
    except ConnectError as err:
        if (kind := _FINAL.get(err.code)) is not None:
            raise kind(err.message) from err
        message = f"the cloud answered {err.code.value}: {err.message}"
        raise (CloudError if err.code in _HOPELESS else UnreachableError)(message) from err
    except (OSError, ReadError, RemoteProtocolError, StreamError, WriteError) as err:
        message = f"the connection to the cloud broke ({type(err).__name__})"
        raise UnreachableError(message) from err
