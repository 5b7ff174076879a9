"""Which engines are measured, and how each one is started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

RUNNERS = Path(__file__).parents[1] / "runners"
OURS = "autoglm"
# What limits each engine to an instruction set below the processor's best.
LIMITED_ISAS = ("avx512", "avx2")
ONEDNN_NAMES = {"avx512": "AVX512_CORE_VNNI", "avx2": "AVX2"}
ATEN_NAMES = {"avx512": "avx512", "avx2": "avx2"}


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


def in_python(
    home: Path, name: str, weights: str, script: str, model: Path, threads: int, isa: str | None
) -> Engine:
    """A peer under Python; torch and its oneDNN obey the environment, other peers do not."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    if isa:
        environment["ONEDNN_MAX_CPU_ISA"] = ONEDNN_NAMES[isa]
        environment["ATEN_CPU_CAPABILITY"] = ATEN_NAMES[isa]
    python = home / "venv" / "bin" / "python"
    return Engine(
        name=name,
        weights=weights,
        command=(str(python), str(RUNNERS / script), str(model), str(threads)),
        environment=environment,
        has_rows=script != "run_onnx.py",
    )


def peers(home: Path, models: Path, threads: int, isa: str | None = None) -> list[Engine]:
    """Every peer that can be limited to `isa`, best known first."""

    def python(name: str, weights: str, script: str, model: str) -> Engine:
        return in_python(home, name, weights, script, models / model, threads, isa)

    found = [
        llama(home, models, threads, isa, flash=True),
        llama(home, models, threads, isa, flash=False),
    ]
    if isa != "avx2":  # there torch computes bf16 in code without vectors
        found.append(python("torch", "bf16", "run_torch.py", "glm"))
    if isa is None:
        found += [
            python("OpenVINO", "int4, groups of 128", "run_openvino.py", "openvino"),
            python("ONNX Runtime GenAI", "int4, groups of 32", "run_onnx.py", "onnx"),
        ]
    return found
