"""Which engines are measured, and how each one is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RUNNERS = Path(__file__).parents[1] / "runners"
OURS = "autoglm"
# What limits each engine to an instruction set below the processor's best.
LIMITED_ISAS = ("avx512", "avx2")
ONEDNN_NAMES = {"avx512": "AVX512_CORE_VNNI", "avx2": "AVX2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One way to run one model; `weights` says in what precision."""

    name: str
    weights: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    has_rows: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether this is the engine that the others are compared with."""
        return self.name == OURS

    @property
    def full_environment(self) -> dict[str, str]:
        """That of this process, with the engine's own."""
        return {**os.environ, **self.environment}


def ours(models: Path, threads: int, isa: str | None = None) -> Engine:
    """Our int4 bundle, under the interpreter of this process."""
    return Engine(
        name=OURS,
        weights="int4, groups of 32",
        command=(sys.executable, str(RUNNERS / "run_ours.py"), str(models / "int4"), str(threads)),
        environment={"AUTOGLM_ISA": isa} if isa else {},
    )


def llama(home: Path, models: Path, threads: int, isa: str | None, *, flash: bool) -> Engine:
    """llama.cpp, built for the instruction set."""
    runner = home / "llama" / (isa or "native") / "bin" / "llama_runner"
    return Engine(
        name="llama.cpp" if flash else "llama.cpp, flash attention off",
        weights="Q4_0",
        command=(str(runner), str(models / "llama.gguf"), str(threads), str(int(flash))),
    )


def torch(home: Path, models: Path, threads: int, isa: str | None) -> Engine:
    """transformers on torch; floats where the instruction set has no dot product of bf16."""
    dtype, name = ("bfloat16", "bf16") if isa is None else ("float32", "fp32")
    engine = in_python(home, "torch", name, ("run_torch.py", models / "glm", threads, dtype))
    if isa:
        limits = {"ONEDNN_MAX_CPU_ISA": ONEDNN_NAMES[isa], "ATEN_CPU_CAPABILITY": isa}
        engine.environment.update(limits)
    return engine


def in_python(
    home: Path, name: str, weights: str, arguments: Sequence[object], *, has_rows: bool = True
) -> Engine:
    """A peer under Python: its runner and the runner's arguments."""
    script, *rest = map(str, arguments)
    return Engine(
        name=name,
        weights=weights,
        command=(str(home / "venv" / "bin" / "python"), str(RUNNERS / script), *rest),
        has_rows=has_rows,
    )


def peers(home: Path, models: Path, threads: int, isa: str | None = None) -> list[Engine]:
    """Every peer that can be limited to `isa`, best known first."""
    found = [
        llama(home, models, threads, isa, flash=True),
        llama(home, models, threads, isa, flash=False),
        torch(home, models, threads, isa),
    ]
    if isa is None:
        vino = ("run_openvino.py", models / "openvino", threads)
        onnx = ("run_onnx.py", models / "onnx", threads)
        found += [
            in_python(home, "OpenVINO", "int4, groups of 128", vino),
            in_python(home, "ONNX Runtime GenAI", "int4, groups of 32", onnx, has_rows=False),
        ]
    return found
