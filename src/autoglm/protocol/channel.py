"""A connection to the cloud service: HTTP/2 with a token, over TLS, and one kind of error.

Needs the extra `sync`. Redirects are not followed: the token goes nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from connectrpc.client import ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec
from connectrpc.errors import ConnectError
from pyqwest import HTTPVersion, ReadError, RemoteProtocolError, StreamError, WriteError
from pyqwest import SyncClient as HttpClient
from pyqwest import SyncHTTPTransport as HttpTransport

from autoglm.errors import CloudError, InvalidRequestError, SyncError, UsageError

CONNECT_S = 2.0
READ_S = 10.0
LOOPBACK = ("http://127.0.0.1:", "http://localhost:", "http://[::1]:")

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
    """Where the service is and who asks. Files are in PEM; `certificate` and `key` are ours."""

    address: str
    token: str
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    connect_s: float = CONNECT_S
    read_s: float = READ_S

    def __post_init__(self) -> None:
        """Raises UsageError for an address that would send the token in the clear."""
        if not self.address.startswith(("https://", *LOOPBACK)):
            message = f"{self.address}: a token goes over https only, or to this machine"
            raise UsageError(message)


class Channel:
    """One HTTP/2 connection, made when it is first used. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.headers = {"authorization": f"Bearer {endpoint.token}"}
        self.client = self._connected()

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
