"""Builds what the peers need, once: environments of Python, llama.cpp, and every model.

Everything lies under one directory (default build/peers) and is kept; a part that failed is made
again at the next call. Usage: environment.py [--home DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import mmap
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from random_checkpoint import SHAPES, write_checkpoint

import autoglm
from autoglm.modelfile.arch import WeightFormat
from autoglm.modelfile.convert import convert
from peers.engines import RECIPE_BUNDLE, Engine
from peers.llama_checkpoint import write_llama_checkpoint

HERE = Path(__file__).parent
RUNNERS = HERE.parent / "runners"
DEFAULT_HOME = HERE.parents[1] / "build" / "peers"
MODEL_SHAPES = ("glm-edge-1.5b", "small")
LLAMA_SOURCE = "llama-cpp-python==0.3.36"
LLAMA_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DLLAMA_BUILD_COMMON=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
AVX2 = tuple(f"-DGGML_{name}=ON" for name in ("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C"))
AVX512 = tuple(f"-DGGML_AVX512{name}=ON" for name in ("", "_VNNI", "_VBMI"))
# The processor's own path first: its build also makes the library that all three share.
LLAMA_BUILDS: Mapping[str, tuple[str, ...]] = {
    "native": ("-DGGML_NATIVE=ON",),
    "avx512": ("-DGGML_NATIVE=OFF", *AVX2, *AVX512),
    "avx2": ("-DGGML_NATIVE=OFF", *AVX2),
}
OWN_BUNDLES: Mapping[str, dict[str, WeightFormat]] = {
    "int4": {},
    RECIPE_BUNDLE: {"*.attn.qkv": "int8"},
}
NICENESS = 10


def run(command: Sequence[str | Path], log: Path, path: Path | None = None) -> None:
    """Run a command at low priority with its output in a file; the error names the file."""
    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = ["nice", "-n", str(NICENESS), *map(str, command)]
    with log.open("ab") as stream:
        done = subprocess.run(words, stdout=stream, stderr=stream, env=environment, check=False)
    if done.returncode:
        message = f"{command[0]} ended with {done.returncode}; see {log}"
        raise RuntimeError(message)


def make(target: Path, what: str, build: Callable[[], object]) -> None:
    """Build `target` unless a mark beside it says that it is whole.

    A build that fails is told of, not raised: its engine will be left out of the run.
    """
    mark = target.parent / f".{target.name}.done"
    if mark.exists() and target.exists():
        return
    print(f"peers: making {what}", file=sys.stderr, flush=True)
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        build()
    except (RuntimeError, OSError) as err:
        print(f"peers: left out: {err}", file=sys.stderr, flush=True)
    else:
        mark.touch()


def forget_if_older(target: Path) -> None:
    """Make a bundle anew after the package has changed: it may pack in another way."""
    mark = target.parent / f".{target.name}.done"
    package = Path(autoglm.__file__).parent
    parts = [*package.glob("_core*.so"), *package.glob("modelfile/*.py")]
    if mark.exists() and mark.stat().st_mtime < max(part.stat().st_mtime for part in parts):
        mark.unlink()


def make_venv(home: Path, name: str, requirements: str) -> None:
    """A virtual environment with pinned packages."""
    target, log = home / name, home / "logs" / f"{name}.log"

    def build() -> None:
        run([sys.executable, "-m", "venv", target], log)
        run([target / "bin" / "pip", "install", "-r", HERE / requirements], log)
        # Wrong beside a processor build of torch, and of no use here.
        run([target / "bin" / "pip", "uninstall", "-y", "torchvision"], log)

    make(target, f"the environment {name}", build)


def make_llama(home: Path) -> None:
    """llama.cpp for each instruction set, with our runner; the source is that of a PyPI package."""
    tools = home / "venv" / "bin"
    source, log = home / "llama-src", home / "logs" / "llama.log"

    def unpack() -> None:
        downloads = home / "downloads"
        options = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", "-d")
        run([tools / "pip", "download", *options, downloads, LLAMA_SOURCE], log, tools)
        with tarfile.open(next(downloads.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(home / "llama-unpacked", filter="data")
        unpacked = next((home / "llama-unpacked").iterdir())
        unpacked.rename(source)
        (home / "llama-unpacked").rmdir()

    make(source, "the source of llama.cpp", unpack)
    for isa, options in LLAMA_BUILDS.items():
        build = functools.partial(build_llama, home, isa, options)
        make(home / "llama" / isa, f"llama.cpp for {isa} (minutes)", build)


def build_llama(home: Path, isa: str, options: Sequence[str]) -> None:
    """One build directory; all but the first take the library of the first."""
    tools, log = home / "venv" / "bin", home / "logs" / f"llama-{isa}.log"
    source, target = home / "llama-src" / "vendor" / "llama.cpp", home / "llama" / isa
    is_first = isa == next(iter(LLAMA_BUILDS))
    flags = f"-DCMAKE_CXX_FLAGS=-include {RUNNERS / 'tile_config.h'}"
    configure: list[str | Path] = [
        "cmake",
        "-G",
        "Ninja",
        "-S",
        source,
        "-B",
        target,
        flags,
        *LLAMA_OPTIONS,
    ]
    run([*configure, *options], log, tools)
    ninja_target = "llama" if is_first else "ggml-cpu"
    run(["ninja", "-C", target, "-j", str(os.cpu_count() or 1), ninja_target], log, tools)
    libraries = target / "bin"
    if not is_first:
        first = home / "llama" / next(iter(LLAMA_BUILDS)) / "bin"
        for library in first.glob("lib*.so*"):
            if not (libraries / library.name).exists():
                shutil.copy(library, libraries / library.name)
    includes = [f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}"]
    links = [f"-L{libraries}", "-lllama", "-lggml", "-lggml-base", "-Wl,-rpath,$ORIGIN"]
    runner: list[str | Path] = [RUNNERS / "llama_runner.cc", "-o", libraries / "llama_runner"]
    run(["c++", "-std=c++20", "-O2", *includes, *runner, *links], log)


def make_llama_server(home: Path) -> tuple[Path, Path]:
    """llama.cpp's server, and the large model with a vocabulary for it; returns their files."""
    make_venv(home, "venv", "requirements.txt")
    make_llama(home)
    tools, target = home / "venv" / "bin", home / "llama" / "server"
    source, log = home / "llama-src" / "vendor" / "llama.cpp", home / "logs" / "llama-server.log"

    def build() -> None:
        wanted = ("COMMON", "TOOLS", "SERVER")
        changed = {f"-DLLAMA_BUILD_{name}=OFF": f"-DLLAMA_BUILD_{name}=ON" for name in wanted}
        options = [changed.get(option, option) for option in LLAMA_OPTIONS]
        extra = ["-DGGML_NATIVE=ON", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF"]
        flags = f"-DCMAKE_CXX_FLAGS=-include {RUNNERS / 'tile_config.h'}"
        run(
            ["cmake", "-G", "Ninja", "-S", source, "-B", target, flags, *options, *extra],
            log,
            tools,
        )
        run(["ninja", "-C", target, "-j", str(os.cpu_count() or 1), "llama-server"], log, tools)

    make(target, "llama.cpp's server (minutes)", build)
    models = make_models(home, MODEL_SHAPES[0])
    gguf, python = models / "llama-words.gguf", tools / "python"
    command: list[str | Path] = [
        python,
        RUNNERS / "write_gguf.py",
        "--words",
        models / "llama",
        gguf,
    ]
    log = home / "logs" / "llama-words.log"
    make(gguf, "GGUF with a vocabulary", lambda: run(command, log))
    return target / "bin" / "llama-server", gguf


def make_models(home: Path, shape: str) -> Path:
    """The random model of a shape in every format; returns their directory."""
    models, log = home / "models" / shape, home / "logs" / f"models-{shape}.log"
    python, converter = home / "venv" / "bin" / "python", home / "venv-openvino" / "bin" / "python"
    glm, llama_like = models / "glm", models / "llama"
    make(glm, f"{shape}: checkpoint", lambda: write_checkpoint(glm, SHAPES[shape]))
    for bundle, formats in OWN_BUNDLES.items():
        forget_if_older(models / bundle)
        build = functools.partial(convert, glm, models / bundle, "int4", formats=formats)
        make(models / bundle, f"{shape}: our {bundle}", build)
    make(llama_like, f"{shape}: Llama names", lambda: write_llama_checkpoint(glm, llama_like))
    gguf = models / "llama.gguf"
    make(
        gguf,
        f"{shape}: GGUF",
        lambda: run([python, RUNNERS / "write_gguf.py", llama_like, gguf], log),
    )
    vino = models / "openvino"
    command: list[str | Path] = [converter, RUNNERS / "write_openvino.py", llama_like, vino]
    make(vino, f"{shape}: OpenVINO (minutes)", lambda: run(command, log))
    onnx = models / "onnx"
    builder: list[str | Path] = [
        python,
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        llama_like,
        "-o",
        onnx,
    ]
    options: list[str | Path] = [
        "-p",
        "int4",
        "-e",
        "cpu",
        "-c",
        models / "cache",
        "--extra_options",
    ]
    settings = ["int4_accuracy_level=4", "int4_block_size=32"]
    make(onnx, f"{shape}: ONNX (minutes)", lambda: run([*builder, *options, *settings], log))
    return models


def make_all(home: Path) -> None:
    """Everything bench_peers.py needs."""
    home.mkdir(parents=True, exist_ok=True)
    make_venv(home, "venv", "requirements.txt")
    make_venv(home, "venv-openvino", "requirements-openvino.txt")
    make_llama(home)
    make_peak(home)
    for shape in MODEL_SHAPES:
        make_models(home, shape)


def make_peak(home: Path) -> Path:
    """The program that measures the processor's int8 peak."""
    source, target = RUNNERS / "int8_peak.cc", home / "int8_peak"
    flags = ("-std=c++20", "-O2", "-march=native", "-pthread")
    build = functools.partial(
        run, ["c++", *flags, source, "-o", target], home / "logs" / "int8-peak.log"
    )
    make(target, "the int8 peak", build)
    return target


def gather_memory() -> None:
    """Let the system join free memory into large pages, which builds leave in pieces; root only."""
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/compact_memory").write_text("1")


def read_files(engines: Iterable[Engine]) -> None:
    """Read every weight anew: no engine starts from disk, or on pages as writing scattered them.

    The pages are as large as the file system can, as after the first start of an engine that asks
    for them.
    """
    gather_memory()
    for path in dict.fromkeys(engine.files for engine in engines if engine.files):
        files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
        for file in filter(lambda file: file.stat().st_size > 0, files):
            with file.open("rb", buffering=0) as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                with mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    mapped.madvise(mmap.MADV_HUGEPAGE)
                    _ = mapped[:: mmap.PAGESIZE]


def main() -> int:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", metavar="DIR", type=Path, default=DEFAULT_HOME)
    make_all(parser.parse_args().home.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
