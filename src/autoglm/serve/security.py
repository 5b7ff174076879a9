"""What stands before every route: Host and Origin checks, keys, and the size of bodies.

A page in a browser must not reach the service behind its user's back: neither by a name that was
bound anew to this machine (Host), nor by a request from another site (Origin). An ASGI middleware.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from autoglm.errors import UsageError
from autoglm.serve.errors import RefusedError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Refuse = Callable[[RefusedError, Scope], App]

MAX_BODY_BYTES = 20 * 10**6
MIN_KEY_LENGTH = 16
MAX_KEY_FILE_BYTES = 64 * 1024
OPEN_PATH = "/health"
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(path: Path) -> tuple[bytes, ...]:
    """The keys in a file, one a line. Raises UsageError when others may read it."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()[: MAX_KEY_FILE_BYTES + 1]
    except OSError as err:
        message = f"key file {path}: {err.strerror or err}"
        raise UsageError(message) from err
    if mode & 0o077:
        message = f"key file {path}: others may read it; run: chmod 600 {path}"
        raise UsageError(message)
    keys = tuple(line.strip() for line in content.splitlines() if line.strip())
    if not keys or len(content) > MAX_KEY_FILE_BYTES or min(map(len, keys)) < MIN_KEY_LENGTH:
        message = f"key file {path}: expected keys of at least {MIN_KEY_LENGTH} characters"
        raise UsageError(message)
    return keys


class Guard:
    """Lets requests through that may come in."""

    def __init__(
        self,
        app: App,
        *,
        refuse: Refuse,
        keys: Sequence[bytes] = (),
        hosts: Sequence[str] = (),
        is_local: bool = True,
    ) -> None:
        """`hosts` are further names of this service; `is_local` when it is bound to loopback."""
        self._app = app
        self._refuse = refuse
        self._keys = tuple(keys)
        self._hosts = frozenset(name.lower() for name in hosts)
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then hand over to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except RefusedError as err:
            await self._refuse(err, scope)(scope, receive, _with_headers(send))
            return
        await self._app(scope, _bounded(receive), _with_headers(send))

    def _check(self, scope: Scope) -> None:
        if not scope["path"].startswith("/"):
            message = "the request's target must be a path"
            raise RefusedError(message, status=400, code="bad_target")
        host = self._host(scope)
        self._check_origin(scope, host)
        if scope["path"] != OPEN_PATH:
            self._check_key(scope)
        length = _one(scope, b"content-length")
        if length is not None and not (length.isdigit() and int(length) <= MAX_BODY_BYTES):
            raise too_large()

    def _host(self, scope: Scope) -> str:
        host = (_one(scope, b"host") or b"").decode("latin-1").lower()
        match = _HOST.fullmatch(host)
        if match is None or not self._is_ours(match["name"]):
            message = "the Host header names none of this service's hosts"
            raise RefusedError(message, status=403, code="bad_host")
        return host

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        # Rebinding needs a name; whoever writes an address means it.
        return address.is_loopback if self._is_local else True

    def _check_origin(self, scope: Scope, host: str) -> None:
        message = "requests from pages of other sites are not answered"
        origin = _one(scope, b"origin")
        if origin is not None:
            scheme, _, rest = origin.decode("latin-1").lower().partition("://")
            if scheme not in ("http", "https") or rest != host:
                raise RefusedError(message, status=403, code="bad_origin")
        elif _one(scope, b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise RefusedError(message, status=403, code="bad_origin")

    def _check_key(self, scope: Scope) -> None:
        if not self._keys:
            return
        given = _given_key(scope)
        # Every key is compared, so that the time tells nothing.
        fits = [hmac.compare_digest(given, key) for key in self._keys]
        if not any(fits):
            message = "no valid key; send one as 'Authorization: Bearer KEY'"
            raise RefusedError(message, status=401, code="invalid_api_key")


def too_large() -> RefusedError:
    """The refusal of a body beyond the bound."""
    message = f"the body is larger than {MAX_BODY_BYTES} bytes"
    return RefusedError(message, status=413, code="body_too_large")


def _one(scope: Scope, name: bytes) -> bytes | None:
    """The value of a header; RefusedError when it comes twice."""
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        message = f"the header {name.decode()} comes more than once"
        raise RefusedError(message, status=400, code="bad_header")
    return values[0].strip() if values else None


def _given_key(scope: Scope) -> bytes:
    """The key of a request: a bearer token, `x-api-key`, or a browser's password."""
    scheme, _, value = (_one(scope, b"authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return _one(scope, b"x-api-key") or b""


def _bounded(receive: Receive) -> Receive:
    """Count the bytes that come, because their number need not be announced."""
    num_bytes = 0

    async def bounded() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > MAX_BODY_BYTES:
            raise too_large()
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_HEADERS]
        await send(message)

    return sending
