"""Waits until a service that was started takes work."""

import time
import urllib.error
import urllib.request

MOST_S = 60.0


def await_ready(port: int) -> None:
    """Ask the service on this machine until it is ready. Raises TimeoutError."""
    end = time.monotonic() + MOST_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz?ready", timeout=5):
                return
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.1)
    message = f"no service on port {port} after {MOST_S:.0f} s"
    raise TimeoutError(message)
