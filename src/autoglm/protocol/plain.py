"""Single small HTTP requests beside the connection: tokens, and probes of the network.

No redirect is followed and no proxy is used, so a token goes to its service only.
"""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import urlsplit

MAX_REPLY_BYTES = 2**16


def tls_context(authority: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """TLS towards a service; files are in PEM. Raises OSError."""
    context = ssl.create_default_context(cafile=authority)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def call(
    address: str,
    method: str,
    path: str,
    *,
    headers: dict[str, str],
    context: ssl.SSLContext | None,
    timeout_s: float,
) -> tuple[int, bytes]:
    """The status and body of a reply. `context` is for https. Raises OSError, HTTPException."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request(method, parts.path.rstrip("/") + path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read(MAX_REPLY_BYTES)
    finally:
        connection.close()
