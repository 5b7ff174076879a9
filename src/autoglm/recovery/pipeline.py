"""Compression with training in between: prune, distil from the whole model, then round.

Unlike compression alone this holds the model, its whole one, gradients and optimizer in memory,
about 24 bytes a weight. Work lies beside the bundle and goes on after an interruption.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoglm.compression.calibration import possible_starts, read_tokens
from autoglm.compression.codes import Floats
from autoglm.compression.pipeline import Compression, compress
from autoglm.compression.pruning import Pruning
from autoglm.compression.recipe import Recipe, load_recipe, parse_recipe
from autoglm.compression.source import open_source
from autoglm.errors import InputError, UsageError, require
from autoglm.modelfile.passes import DEFAULT_PASSES
from autoglm.modelfile.staging import refuse_contents
from autoglm.recovery.floats import FloatModel, read_floats, write_checkpoint

if TYPE_CHECKING:
    from autoglm.recovery.training import Windows

MIN_WINDOWS = 4
_FLOATS = parse_recipe("fp32", 'weights = "fp32"\n')

# The stage ("compressing", "recovering"), what of it is done, and all of it.
StageProgress = Callable[[str, int, int], None]


def compress_and_recover(
    model: str | Path,
    recipe: str | Path | Recipe,
    *,
    out: str | Path,
    calibration: str | Path,
    steps: int,
    has_golden: bool = False,
    progress: StageProgress = lambda stage, done, total: None,
) -> Compression:
    """Write the bundle `out` like `compress`, and train `steps` between pruning and rounding.

    `calibration` is the text to train on. Raises what `compress` raises, UsageError when the recipe
    removes nothing, and MissingExtraError without torch.
    """
    require("torch", extra="train")
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    _check(chosen)
    target = Path(os.path.realpath(out))
    refuse_contents(target)
    work = target.parent / f".{target.name}.recover"
    _take(work, f"{chosen.text}\n{steps}\n{_state_of(Path(model))}\n{_digest(Path(calibration))}")

    def report(done: int, total: int) -> None:
        progress("compressing", done, total)

    from autoglm.recovery.training import Training, distil

    whole, pruned, trained = (work / name for name in ("whole", "pruned", "trained"))
    if not trained.exists():
        if not whole.exists():
            compress(model, _FLOATS, out=whole, progress=report)
        if not pruned.exists():
            floats = _in_floats(chosen)
            text = calibration if floats.needs_calibration else None
            compress(model, floats, out=pruned, calibration=text, progress=report)
        smaller = read_floats(pruned)
        windows = _windows(Path(calibration), pruned, smaller, chosen)
        training = Training(steps=steps, options=chosen.recovery, state=work / "state.pt")
        result = distil(
            smaller,
            read_floats(whole),
            windows,
            training,
            kept={} if chosen.pruning is None else _masks(smaller),
            progress=lambda done: progress("recovering", done, steps),
        )
        write_checkpoint(trained, pruned, result)
    last = _rounding(chosen)
    made = compress(
        trained,
        last,
        out=target,
        calibration=calibration if last.needs_calibration else None,
        has_golden=has_golden,
        progress=report,
    )
    shutil.rmtree(work, ignore_errors=True)
    return made


def _check(recipe: Recipe) -> None:
    if recipe.pruning is None and recipe.structure is None:
        message = f"recipe {recipe.name} removes nothing that training could make up for"
        raise UsageError(message)
    if set(recipe.passes) - set(DEFAULT_PASSES):
        message = f"recipe {recipe.name}: training needs the 'passes' [\"default\"]"
        raise UsageError(message)


def _in_floats(recipe: Recipe) -> Recipe:
    """What the recipe removes, and no rounding."""
    return replace(
        recipe,
        weights="fp32",
        granularity="row",
        symmetric=True,
        method="rtn",
        scaling="none",
        activation_bits=16,
        activations="dynamic",
        input_scales=False,
        formats={},
    )


def _rounding(recipe: Recipe) -> Recipe:
    """What the recipe rounds; its zeros are found again as the smallest weights of each row."""
    pruning = None
    if recipe.pruning is not None:
        pattern, sparsity = recipe.pruning.pattern, recipe.pruning.sparsity
        pruning = Pruning(method="magnitude", pattern=pattern, sparsity=sparsity)
    return replace(recipe, pruning=pruning, structure=None)


def _masks(model: FloatModel) -> dict[str, NDArray[np.bool_]]:
    def is_pruned(name: str, values: Floats) -> bool:
        return name.startswith("model.layers.") and values.ndim == 2

    return {name: v != 0.0 for name, v in model.tensors.items() if is_pruned(name, v)}


def _windows(text: Path, bundle: Path, model: FloatModel, recipe: Recipe) -> Windows:
    """Rows are read from their beginnings, a text from anywhere."""
    from autoglm.recovery.training import Windows

    tokens = read_tokens(text, bundle, vocab_size=model.config.vocab_size)
    count = len(tokens.ids)
    if count < 2 * MIN_WINDOWS:
        message = f"{text}: has {count} tokens; training needs at least {2 * MIN_WINDOWS}"
        raise InputError(message)
    length = min(recipe.calibration.sequence_tokens, count // MIN_WINDOWS)
    starts = possible_starts(tokens, length)
    if len(tokens.starts) == 1:
        starts = np.arange(count - length + 1)
    counted = np.zeros(count, np.bool_)
    for begin, end in tokens.learnt:
        counted[begin:end] = True
    return Windows(np.array(tokens.ids, np.int64), counted, starts, length)


def _take(work: Path, job: str) -> None:
    """Keep what an earlier run of the same job has left, and nothing else."""
    note = work / "job"
    digest = hashlib.sha256(job.encode()).hexdigest()
    if note.exists() and note.read_text(encoding="ascii") == digest:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    note.write_text(digest, encoding="ascii")


def _state_of(model: Path) -> str:
    with open_source(model) as source:
        files = [(path.name, path.stat()) for path in source.weight_files]
    return repr([(name, status.st_size, status.st_mtime_ns) for name, status in files])


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as err:
        message = f"{path}: cannot be read: {err.strerror}"
        raise InputError(message) from err
