"""autoglm: language models on the device. Public names load on first use (PEP 562)."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # the `typing` module alone would cost 7 ms
if TYPE_CHECKING:
    from autoglm.client import AsyncAutoGLMClient, AutoGLMClient
    from autoglm.compression.graphs.pipeline import GraphCompression, compress_graph
    from autoglm.compression.pipeline import Compression, compress
    from autoglm.engine.model import LoadedModel, load_model
    from autoglm.errors import AutoGLMError
    from autoglm.types import Chunk, Message, ModelSize, Result, SamplingParams

__version__ = "0.1.0"

_HOMES = {
    "AsyncAutoGLMClient": "autoglm.client",
    "AutoGLMClient": "autoglm.client",
    "AutoGLMError": "autoglm.errors",
    "Chunk": "autoglm.types",
    "Compression": "autoglm.compression.pipeline",
    "GraphCompression": "autoglm.compression.graphs.pipeline",
    "LoadedModel": "autoglm.engine.model",
    "Message": "autoglm.types",
    "ModelSize": "autoglm.types",
    "Result": "autoglm.types",
    "SamplingParams": "autoglm.types",
    "compress": "autoglm.compression.pipeline",
    "compress_graph": "autoglm.compression.graphs.pipeline",
    "load_model": "autoglm.engine.model",
}

__all__ = [
    "AsyncAutoGLMClient",
    "AutoGLMClient",
    "AutoGLMError",
    "Chunk",
    "Compression",
    "GraphCompression",
    "LoadedModel",
    "Message",
    "ModelSize",
    "Result",
    "SamplingParams",
    "__version__",
    "compress",
    "compress_graph",
    "load_model",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        message = f"module 'autoglm' has no attribute {name!r}"
        raise AttributeError(message)
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
