"""The engine of a device that may ask the cloud: everything between a request and the two models.

Needs the extra `sync`, and credentials: `autoglm cloud enrol`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from autoglm.config import Settings
from autoglm.engine.breaker import Breaker
from autoglm.engine.cloud import CloudEngine
from autoglm.engine.failover import Device, FailoverEngine
from autoglm.engine.hedge import Hedge
from autoglm.engine.reachability import Reachability
from autoglm.privacy.boundary import Boundary, BoundaryPaths
from autoglm.protocol.channel import Channel, Endpoint
from autoglm.protocol.credentials import CredentialFile, credentials_path


def online_engine(
    settings: Settings, device: Device, *, device_model: str, environ: Mapping[str, str]
) -> FailoverEngine:
    """The cloud behind the privacy boundary, and `device` behind the cloud.

    Raises UsageError without credentials, PrivacyError for a policy that cannot be used, and
    StorageError.
    """
    endpoint = Endpoint.of(CredentialFile(credentials_path(environ)))
    policy = None if settings.policy is None else Path(settings.policy)
    boundary = Boundary.open(BoundaryPaths.find(environ), policy=policy)
    channel = Channel(endpoint)
    return FailoverEngine(
        CloudEngine(channel, boundary, timeout_s=settings.cloud_timeout_s),
        device,
        Breaker(),
        cloud_model=urlsplit(endpoint.address).hostname or endpoint.address,
        local_model=device_model,
        reachability=Reachability(channel.probe),
        hedge=Hedge(settings.cloud_hedge_ms / 1e3) if settings.cloud_hedge_ms else None,
        timeout_s=settings.cloud_timeout_s,
    )
