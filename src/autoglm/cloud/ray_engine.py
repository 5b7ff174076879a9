"""Answers of a Ray Serve deployment as an engine of the service. Needs the extra `scale`.

Ray spreads requests over replicas and starts one anew that dies; an answer that was in progress
there fails, and the device goes on with it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any

from autoglm.cloud.ray_replica import APP, Replica
from autoglm.config import Value
from autoglm.errors import AutoGLMError, CloudError, require
from autoglm.protocol.inference import decode_chunk, encode_request
from autoglm.protocol.v1.inference_pb2 import GenerateResponse
from autoglm.types import Chunk, Request, Usage

EXTRA = "scale"
CONNECT_S = 5.0
# Replicas know no ids of answers; the message wants one.
_ID = "-" * 16


def connect(address: str) -> Any:
    """Ray Serve of the cluster at `address`. Raises CloudError."""
    ray = require("ray", extra=EXTRA)
    serve = require("ray.serve", extra=EXTRA)
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "://" not in address:
            # Ray itself looks for a cluster that is not there for many minutes.
            socket.create_connection((host, int(port)), CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, OSError, RuntimeError, ValueError) as err:
        message = f"no Ray cluster at {address} ({type(err).__name__})"
        raise CloudError(message) from err
    return serve


def deploy(
    address: str, flags: Mapping[str, Value], *, replicas: int, slots: int, threads: int
) -> None:
    """Start or replace the deployment, and wait until it answers. Raises CloudError."""
    serve = connect(address)
    serve.start(proxy_location="Disabled")
    deployment = serve.deployment(
        Replica,
        name=Replica.__name__,
        num_replicas=replicas,
        max_ongoing_requests=slots,
        ray_actor_options={"num_cpus": threads},
    )
    try:
        serve.run(deployment.bind(dict(flags), slots), name=APP, route_prefix=None)
    except RuntimeError as err:
        message = f"the deployment '{APP}' did not start; see: serve status"
        raise CloudError(message) from err


class RayEngine:
    """The deployment of a cluster. Safe to use from several threads."""

    def __init__(self, address: str) -> None:
        """Raises CloudError when there is no deployment."""
        serve = connect(address)
        self._errors = require("ray.exceptions", extra=EXTRA)
        try:
            handle = serve.get_app_handle(APP)
        except Exception as err:
            message = f"{address} has no deployment '{APP}'; run: autoglm cloud deploy"
            raise CloudError(message) from err
        self._stream = handle.options(stream=True).stream

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield the answer as a replica writes it. Raises what it raises, or CloudError."""
        pieces = self._stream.remote(encode_request(request, _ID, 0).SerializeToString())
        with request.cancellation.attached(pieces.cancel):
            try:
                for data in pieces:
                    yield decode_chunk(GenerateResponse.FromString(data))
            except self._errors.TaskCancelledError:
                yield Chunk("", finish_reason="cancelled", usage=Usage(0, 0))
            except self._errors.RayError as err:
                cause = getattr(err, "cause", None)
                if isinstance(cause, AutoGLMError):
                    raise cause from err
                message = f"the replica failed ({type(err).__name__})"
                raise CloudError(message) from err
            finally:
                pieces.cancel()
