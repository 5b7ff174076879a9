"""Show what this machine has, which kernels are used and whether the model is in order."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoglm import __version__
from autoglm.cli.options import (
    add_draft_option,
    add_json_option,
    add_model_option,
    add_precision_option,
    add_threads_option,
    add_window_option,
    whole_number,
)
from autoglm.cli.output import print_json, print_text
from autoglm.config import Settings, load_settings
from autoglm.errors import AutoGLMError, translate_core_errors
from autoglm.hardware.probe import probe

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_model_option(parser)
    parser.add_argument(
        "--context",
        metavar="N",
        type=whole_number(1),
        help="tokens of prompt and answer to plan memory for (default: the whole context)",
    )
    add_window_option(parser)
    add_draft_option(parser)
    add_precision_option(parser)
    add_threads_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 when the machine or the model cannot run."""
    names = ("model", "threads", "window", "draft_model", "precision")
    flags = {name: getattr(args, name) for name in names}
    settings = load_settings({**flags, "context_tokens": args.context})
    report: dict[str, Any] = {
        "version": __version__,
        "machine": asdict(probe()),
        "engine": _engine(),
        "model": _model(settings),
        "settings": {**asdict(settings), "isa": os.environ.get("AUTOGLM_ISA") or None},
    }
    if args.json:
        print_json(report)
    else:
        print_text("\n".join(_lines(report)))
    return 0 if report["engine"]["is_ok"] and report["model"]["is_ok"] else 1


def _engine() -> dict[str, Any]:
    try:
        with translate_core_errors():
            from autoglm import _core

            return {"is_ok": True, **_core.cpu_info()}
    except (AutoGLMError, ImportError) as err:
        return {"is_ok": False, "problem": str(err)}


def _model(settings: Settings) -> dict[str, Any]:
    from autoglm.engine.model import embedded_model
    from autoglm.modelfile.bundle import open_bundle

    try:
        path = Path(settings.model) if settings.model else embedded_model()
        bundle = open_bundle(path)
        memory = _memory(settings) if bundle.tokenizer_path.exists() else None
    except AutoGLMError as err:
        return {"is_ok": False, "path": settings.model, "problem": str(err)}
    return {
        "is_ok": True,
        "path": str(path),
        "architecture": bundle.architecture,
        "weights": bundle.weights,
        "weights_bytes": bundle.weights_bytes,
        "max_position": bundle.max_position,
        "memory": memory,
    }


def _memory(settings: Settings) -> dict[str, Any]:
    """What `generate` would take at its peak with these settings."""
    from autoglm.engine.model import load_model

    with load_model(
        settings.model,
        threads=settings.threads,
        context_tokens=settings.context_tokens,
        window=settings.window,
        sink=settings.sink,
        draft_model=settings.draft_model,
        precision=settings.precision,
        prefault=False,
    ) as model:
        need = model.memory_need()
    return {**asdict(need), "peak_bytes": need.peak_bytes}


def _mib(value: int | None) -> str:
    return "unknown" if value is None else f"{value / MIB:.0f} MiB"


def _lines(report: dict[str, Any]) -> list[str]:
    machine, engine, model = report["machine"], report["engine"], report["model"]
    cores = f"{machine['physical_cores']} physical, {machine['logical_cores']} logical"
    total, available = _mib(machine["memory_total_bytes"]), _mib(machine["memory_available_bytes"])
    lines = [
        f"autoglm     {report['version']}",
        f"processor   {machine['cpu_model'] or 'unknown'}",
        f"cores       {cores}",
        f"memory      {total}, {available} available",
    ]
    if engine["is_ok"]:
        lines.append(f"kernels     {engine['isa']} (of {', '.join(engine['supported'])})")
    else:
        lines.append(f"kernels     unusable: {engine['problem']}")
    if model["is_ok"]:
        size = _mib(model["weights_bytes"])
        lines.append(f"model       {model['architecture']}, {model['weights']}, {size}")
        lines.append(f"            {model['path']}")
        if need := model["memory"]:
            lines.append(
                f"needs       {_mib(need['peak_bytes'])} with {need['context_tokens']} tokens: "
                f"weights {_mib(need['weights_bytes'])}, KV cache {_mib(need['kv_bytes'])}, "
                f"other {_mib(need['other_bytes'])}"
            )
    else:
        lines.append(f"model       unusable: {model['problem']}")
    return lines
