"""Checkpoint to compressed bundle: a recipe applied unit by unit, a unit being a layer.

Memory is bounded by the largest unit's largest matrix, and with calibration by the activations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from autoglm import __version__
from autoglm.compression.calibrated import CalibratedUnits
from autoglm.compression.calibration import digest
from autoglm.compression.plan import Plan, make_plan
from autoglm.compression.recipe import Recipe, load_recipe
from autoglm.compression.remote import RemoteUnits, cluster
from autoglm.compression.source import open_source
from autoglm.compression.stage import Stage
from autoglm.compression.units import StreamedUnits, UnitWriter, units_of
from autoglm.engine.golden import GOLDEN_NAME, NUM_TOKENS, golden_text
from autoglm.engine.native import NativeModel
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.checkpoint import Checkpoint, source_bytes
from autoglm.modelfile.convert import Progress

DEFAULT_RECIPE = "w4a8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """What was written. `bits_per_weight` counts codes and scales of everything stored."""

    path: Path
    architecture: str
    recipe: str
    num_weights: int
    weights_bytes: int
    bits_per_weight: float
    source_bytes: int
    calibration_tokens: int
    resumed_units: int


def compress(
    model: str | Path,
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    *,
    out: str | Path,
    calibration: str | Path | None = None,
    budget_mib: float | None = None,
    has_golden: bool = False,
    ray: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Compression:
    """Write the bundle `out` from the model in `model` by a recipe, its name or its file.

    `model` is a directory with a float checkpoint or one of GPTQ or AWQ tools, or a GGUF file.
    `calibration` is a text file for recipes that look at activations. With `budget_mib` matrices
    get more bits than the recipe says, where that helps most, until the weights file is so large;
    that too needs a text. `has_golden` runs the bundle once and stores a prompt that is compared
    whenever it is loaded. `ray` is the address of a cluster whose machines pack the layers (see
    remote.py), or "local". `progress` gets the source bytes done and in all. Interrupted work goes
    on where it was when the same call is made again, and ends in the same bytes. Raises UsageError
    for the recipe, InputError for the text, ModelFileError and its kinds for the model,
    StorageError for `out`.
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    with open_source(Path(model)) as source:
        plan = make_plan(source, chosen, calibration, budget_mib)
        work = _Work(plan, source.checkpoint, progress)
        last = _golden_files if has_golden else _no_files
        job = _job(source.weight_files, plan.files)
        if ray is None:
            work.write(Path(out), job, last)
        else:
            with cluster(ray, plan.recipe) as machines:
                work.write(Path(out), job, last, Machines(machines, Path(model).resolve()))
    return work.report(Path(out))


class Machines(NamedTuple):
    """A joined cluster, and where its machines find the model."""

    ray: Any
    model: Path


class _Work:
    """One compression: its units, their bytes and what was done."""

    def __init__(self, plan: Plan, checkpoint: Checkpoint, progress: Progress) -> None:
        self._plan = plan
        self._checkpoint = checkpoint
        self._progress = progress
        self._total = source_bytes(plan.graph.tensors, checkpoint)
        self._done = 0
        self._resumed_units = 0
        self._weights_bytes = 0

    def write(
        self,
        out: Path,
        job: str,
        last: Callable[[Path], Mapping[str, bytes]],
        machines: Machines | None = None,
    ) -> None:
        """Write every unit that an earlier run has not finished, then the bundle."""
        tensors, ids = self._plan.graph.tensors, self._plan.ids
        specs = [spec for tensor in tensors for spec in tensor.parts()]
        if ids is not None:
            job += digest(ids)
        with Stage(out, job, specs) as stage:
            writer = self._writer(stage, machines)
            for unit in units_of(tensors):
                if stage.is_finished(unit.name):
                    self._resumed_units += 1
                    writer.replay(unit)
                    self._read(source_bytes(unit.tensors, self._checkpoint))
                else:
                    writer.write(unit)
                    stage.finish_unit(unit.name, unit.parts())
            stage.finish(self._plan.files, last=last)
            self._weights_bytes = stage.num_bytes

    def report(self, path: Path) -> Compression:
        """What was done."""
        plan = self._plan
        num_weights = sum(
            math.prod(rows.source_shape[1:]) * rows.count
            for tensor in plan.graph.tensors
            for rows in tensor.pieces
        )
        return Compression(
            path=path,
            architecture=plan.graph.arch.name,
            recipe=plan.recipe.name,
            num_weights=num_weights,
            weights_bytes=self._weights_bytes,
            bits_per_weight=8 * self._weights_bytes / num_weights,
            source_bytes=self._total,
            calibration_tokens=0 if plan.ids is None else plan.ids.size,
            resumed_units=self._resumed_units,
        )

    def _writer(self, stage: Stage, machines: Machines | None) -> UnitWriter:
        plan = self._plan
        if machines is not None:
            units = tuple(units_of(plan.graph.tensors))
            return RemoteUnits(
                machines.ray,
                machines.model,
                plan.recipe,
                units,
                self._checkpoint,
                stage,
                self._read,
            )
        if plan.ids is None:
            return StreamedUnits(plan.recipe, self._checkpoint, stage, self._read)
        config = plan.graph.arch.config
        return CalibratedUnits(
            config, plan.recipe, self._checkpoint, stage, plan.ids, self._read, plan.whole
        )

    def _read(self, num_bytes: int) -> None:
        self._done = min(self._done + num_bytes, self._total)
        self._progress(self._done, self._total)


def _golden_files(directory: Path) -> Mapping[str, bytes]:
    bundle = open_bundle(directory)
    model = NativeModel(bundle, pool_tokens=NUM_TOKENS)
    return {GOLDEN_NAME: golden_text(model, bundle.config.vocab_size)}


def _no_files(_: Path) -> Mapping[str, bytes]:
    return {}


def _job(weight_files: Sequence[Path], files: Mapping[str, bytes]) -> str:
    """What makes two runs the same work: the checkpoint's files as they are, and the recipe's."""
    digest_of = hashlib.sha256(f"{__version__}".encode())
    for path in weight_files:
        status = path.stat()
        digest_of.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    for name, data in sorted(files.items()):
        digest_of.update(name.encode() + hashlib.sha256(data).digest())
    return digest_of.hexdigest()
