"""Which engines are measured, and how each one is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoglm import config

RECIPE_BUNDLE = "int4-qkv-int8"
RUNNERS = Path(__file__).parents[1] / "runners"
OURS, PRODUCT = "autoglm", "autoglm generate"
OURS_EXACT, OURS_RECIPE = "autoglm, exact", "autoglm, attn.qkv=int8"
OWN_NAMES = (OURS, OURS_EXACT, OURS_RECIPE, PRODUCT)
# What limits each engine to an instruction set below the processor's best.
LIMITED_ISAS = ("avx512", "avx2")
ONEDNN_NAMES = {"avx512": "AVX512_CORE_VNNI", "avx2": "AVX2"}


@dataclass(frozen=True, slots=True)
class Form:
    """In what precision an engine computes, in words and as a line of the quality table."""

    text: str
    weights: str
    activation_bits: int = 16
    kv_dtype: str = "fp32"

    @property
    def key(self) -> tuple[str, int, str]:
        """What a score of the quality table has to match."""
        return self.weights, self.activation_bits, self.kv_dtype


FAST = Form("int4 in groups of 64, 8-bit activations, int8 cache", "int4", 8, "int8")
EXACT = Form("int4 in groups of 64, 16-bit activations, fp16 cache", "int4", 16, "fp16")
# What LITE needs in int4; other models have no matrix like the one left in bf16.
RECIPE_WEIGHTS = "int4,*.attn.qkv=int8,model.layers.4.attn.o=bf16"
RECIPE = Form("int4 and int8, 8-bit activations, int8 cache", RECIPE_WEIGHTS, 8, "int8")
CLOSER = Form("the same", "int4,*.attn.*=int8,model.layers.4.attn.o=bf16", 8, "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One way to run one model; `files` holds its weights."""

    name: str
    form: Form
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    has_rows: bool = True
    files: Path | None = None

    @property
    def full_environment(self) -> dict[str, str]:
        """That of this process, with the engine's own."""
        return {**os.environ, **self.environment}


def ours(
    models: Path,
    threads: int,
    isa: str | None = None,
    *,
    name: str = OURS,
    form: Form = FAST,
    bundle: str = "int4",
) -> Engine:
    """A bundle of ours, under the interpreter of this process."""
    precision = config.FAST if form.activation_bits == 8 else config.EXACT
    runner, path = RUNNERS / "run_ours.py", models / bundle
    return Engine(
        name=name,
        form=form,
        command=(sys.executable, str(runner), str(path), str(threads), precision),
        environment={"AUTOGLM_ISA": isa} if isa else {},
        files=path,
    )


def variants(models: Path, threads: int) -> list[Engine]:
    """Other forms of ours: slower, closer to bf16."""
    return [
        ours(models, threads, name=OURS_EXACT, form=EXACT),
        ours(models, threads, name=OURS_RECIPE, form=RECIPE, bundle=RECIPE_BUNDLE),
    ]


def llama(home: Path, models: Path, threads: int, isa: str | None, *, flash: bool) -> Engine:
    """llama.cpp, built for the instruction set."""
    runner = home / "llama" / (isa or "native") / "bin" / "llama_runner"
    return Engine(
        name="llama.cpp" if flash else "llama.cpp, flash attention off",
        form=Form("Q4_0", "q4_0"),
        command=(str(runner), str(models / "llama.gguf"), str(threads), str(int(flash))),
        files=models / "llama.gguf",
    )


def torch(home: Path, models: Path, threads: int, isa: str | None) -> Engine:
    """transformers on torch; floats where the instruction set has no dot product of bf16."""
    dtype, form = ("bfloat16", "bf16") if isa is None else ("float32", "fp32")
    arguments = ("run_torch.py", models / "glm", threads, dtype)
    engine = in_python(home, "torch" if isa is None else "torch fp32", Form(form, form), arguments)
    if isa:
        limits = {"ONEDNN_MAX_CPU_ISA": ONEDNN_NAMES[isa], "ATEN_CPU_CAPABILITY": isa}
        engine.environment.update(limits)
    return engine


def in_python(
    home: Path, name: str, form: Form, arguments: Sequence[object], *, has_rows: bool = True
) -> Engine:
    """A peer under Python: its runner and the runner's arguments."""
    script, *rest = map(str, arguments)
    return Engine(
        files=Path(rest[0]),
        name=name,
        form=form,
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
            in_python(home, "OpenVINO", Form("int4 in groups of 128", "q4_128"), vino),
            in_python(
                home,
                "ONNX Runtime GenAI",
                Form("int4 in groups of 32", "q4_0"),
                onnx,
                has_rows=False,
            ),
        ]
    return found
