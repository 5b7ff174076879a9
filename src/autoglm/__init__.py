"""autoglm: a language model that runs on the device. Public names load on first use (PEP 562)."""

from __future__ import annotations

__version__ = "0.1.0"
