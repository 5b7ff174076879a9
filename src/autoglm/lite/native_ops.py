"""Builds and loads the training kernels of `native/`, which need an x86-64 processor with AMX.

They are compiled on first use by the C++ compiler of the machine; where that or AMX is missing,
training falls back to plain torch.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

_SOURCES = ("gemm.cc", "rows.cc", "attention.cc")
_HEADERS = ("tiles.h",)
_FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx512bf16",
    "-mfma",
    "-mamx-tile",
    "-mamx-bf16",
)
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "lite_pack_right": (_POINTER, _LONG, _LONG, _INT, _POINTER),
    "lite_multiply": (_LONG, _LONG, _LONG, _POINTER, _INT, *[_POINTER] * 4),
    "lite_norm": (_POINTER, _POINTER, _LONG, _LONG, _FLOAT, _POINTER, _POINTER),
    "lite_norm_backward": (*[_POINTER] * 4, _LONG, _LONG, *[_POINTER] * 3),
    "lite_swiglu": (_POINTER, _LONG, _LONG, _POINTER),
    "lite_swiglu_backward": (_POINTER, _POINTER, _LONG, _LONG),
    "lite_embed": (_POINTER, _POINTER, _LONG, _LONG, _POINTER),
    "lite_embed_backward": (_POINTER, _POINTER, _LONG, _LONG, _POINTER),
    "lite_entropy": (_POINTER, _POINTER, _LONG, _LONG, _FLOAT, _FLOAT, _POINTER),
    "lite_distance": (*[_POINTER] * 3, _LONG, _LONG, _FLOAT, _FLOAT, _POINTER),
    "lite_attention": (*[_POINTER] * 3, _LONG, *[_INT] * 4, *[_POINTER] * 2),
    "lite_attention_backward": (*[_POINTER] * 3, _LONG, *[_INT] * 4, *[_POINTER] * 4),
}


def load_kernels(cache: Path | None = None) -> ctypes.CDLL | None:
    """The kernels, or None where the compiler or the processor cannot run them.

    torch must be imported before: the kernels then use its OpenMP threads instead of a second pool.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler or os.uname().machine != "x86_64":
        return None
    library = _build(compiler, cache or Path.home() / ".cache" / "autoglm" / "lite")
    if library is None:
        return None
    kernels = ctypes.CDLL(str(library))
    if not kernels.lite_has_tiles():
        return None
    for name, arguments in _SIGNATURES.items():
        function = getattr(kernels, name)
        function.argtypes, function.restype = arguments, None
    return kernels


def _build(compiler: str, cache: Path) -> Path | None:
    folder = resources.files("autoglm.lite").joinpath("native")
    texts = {name: folder.joinpath(name).read_bytes() for name in (*_SOURCES, *_HEADERS)}
    digest = hashlib.sha256(" ".join((compiler, *_FLAGS)).encode())
    for text in texts.values():
        digest.update(text)
    library = cache / f"kernels-{digest.hexdigest()[:16]}.so"
    if library.exists():
        return library
    work = cache / f"build-{os.getpid()}"
    work.mkdir(parents=True, exist_ok=True)
    try:
        for name, text in texts.items():
            (work / name).write_bytes(text)
        command = [compiler, *_FLAGS, "-o", "kernels.so", *_SOURCES]
        done = subprocess.run(command, cwd=work, capture_output=True, check=False)
        if done.returncode:
            return None
        (work / "kernels.so").replace(library)
    finally:
        shutil.rmtree(work)
    return library
