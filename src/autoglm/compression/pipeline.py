"""Checkpoint to compressed bundle: a recipe applied unit by unit, a unit being a layer.

Memory is bounded by the largest unit's largest matrix, and with calibration by the activations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoglm import __version__
from autoglm.compression.calibrated import CalibratedUnits, refuse_experts
from autoglm.compression.calibration import digest, read_sequences
from autoglm.compression.depth import importance, num_removed, without_layers
from autoglm.compression.matrices import may_prune
from autoglm.compression.pruning import check_pruning
from autoglm.compression.recipe import Recipe, load_recipe
from autoglm.compression.source import open_source
from autoglm.compression.stage import Stage
from autoglm.compression.structure import config_changes, smaller_graph
from autoglm.compression.units import StreamedUnits, UnitWriter, units_of
from autoglm.engine.golden import GOLDEN_NAME, NUM_TOKENS, golden_text
from autoglm.engine.native import NativeModel
from autoglm.errors import UsageError
from autoglm.modelfile.arch import parse_architecture
from autoglm.modelfile.bundle import CONFIG_NAME, open_bundle
from autoglm.modelfile.checkpoint import Checkpoint, source_bytes
from autoglm.modelfile.convert import Progress, bundle_config, small_files
from autoglm.modelfile.layout import Matrix
from autoglm.modelfile.packing import config_text
from autoglm.modelfile.passes import Graph, packing_of, run_passes, set_formats

RECIPE_NAME = "recipe.toml"
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
    has_golden: bool = False,
    progress: Progress = lambda done, total: None,
) -> Compression:
    """Write the bundle `out` from the model in `model` by a recipe, its name or its file.

    `model` is a directory with a float checkpoint or one of GPTQ or AWQ tools, or a GGUF file.
    `calibration` is a text file for recipes that look at activations. `has_golden` runs the bundle
    once and stores a prompt that is compared whenever it is loaded. `progress` gets the source
    bytes done and in all. Interrupted work goes on where it was when the same call is made again,
    and ends in the same bytes. Raises UsageError for the recipe, InputError for the text,
    ModelFileError and its kinds for the model, StorageError for `out`.
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    _check_calibration(chosen, calibration)
    with open_source(Path(model)) as source:
        arch = parse_architecture(source.fields, chosen.weights)
        files = small_files(source.directory, source.fields, arch)
        checkpoint = source.checkpoint
        graph = set_formats(run_passes(arch, checkpoint, chosen.passes), chosen.formats)
        ids = None
        if calibration is not None:
            ids = read_sequences(
                calibration,
                source.directory,
                vocab_size=arch.config.vocab_size,
                size=chosen.calibration,
            )
        whole, changes = graph, dict[str, object]()
        if chosen.structure is not None and ids is not None:
            whole = _fewer_layers(whole, chosen, checkpoint, ids)
            graph = smaller_graph(whole, chosen.structure)
            changes = config_changes(graph.arch.config)
        for tensor in graph.tensors:
            if chosen.pruning and isinstance(tensor, Matrix) and may_prune(tensor):
                check_pruning(chosen.pruning, tensor.name, tensor.cols)
        packing = packing_of(graph, chosen.passes, activation_bits=chosen.activation_bits)
        files[CONFIG_NAME] = config_text(
            {**bundle_config(source.config, graph), **changes}, packing
        )
        files[RECIPE_NAME] = chosen.text.encode()
        work = _Work(chosen, whole, graph, checkpoint, ids, progress)
        last = _golden_files if has_golden else _no_files
        work.write(Path(out), _job(source.weight_files, files), files, last)
    return work.report(Path(out))


class _Work:
    """One compression: its units, their bytes and what was done."""

    def __init__(
        self,
        recipe: Recipe,
        whole: Graph,
        graph: Graph,
        checkpoint: Checkpoint,
        ids: NDArray[np.int64] | None,
        progress: Progress,
    ) -> None:
        self._recipe = recipe
        self._whole = whole
        self._graph = graph
        self._checkpoint = checkpoint
        self._ids = ids
        self._progress = progress
        self._total = source_bytes(graph.tensors, checkpoint)
        self._done = 0
        self._resumed_units = 0
        self._weights_bytes = 0

    def write(
        self,
        out: Path,
        job: str,
        files: Mapping[str, bytes],
        last: Callable[[Path], Mapping[str, bytes]],
    ) -> None:
        """Write every unit that an earlier run has not finished, then the bundle."""
        specs = [spec for tensor in self._graph.tensors for spec in tensor.parts()]
        if self._ids is not None:
            job += digest(self._ids)
        with Stage(out, job, specs) as stage:
            writer = self._writer(stage)
            for unit in units_of(self._graph.tensors):
                if stage.is_finished(unit.name):
                    self._resumed_units += 1
                    writer.replay(unit)
                    self._read(source_bytes(unit.tensors, self._checkpoint))
                else:
                    writer.write(unit)
                    stage.finish_unit(unit.name, unit.parts())
            stage.finish(files, last=last)
            self._weights_bytes = stage.num_bytes

    def report(self, path: Path) -> Compression:
        """What was done."""
        num_weights = sum(
            math.prod(rows.source_shape[1:]) * rows.count
            for tensor in self._graph.tensors
            for rows in tensor.pieces
        )
        return Compression(
            path=path,
            architecture=self._graph.arch.name,
            recipe=self._recipe.name,
            num_weights=num_weights,
            weights_bytes=self._weights_bytes,
            bits_per_weight=8 * self._weights_bytes / num_weights,
            source_bytes=self._total,
            calibration_tokens=0 if self._ids is None else self._ids.size,
            resumed_units=self._resumed_units,
        )

    def _writer(self, stage: Stage) -> UnitWriter:
        if self._ids is None:
            return StreamedUnits(self._recipe, self._checkpoint, stage, self._read)
        config = self._graph.arch.config
        return CalibratedUnits(
            config, self._recipe, self._checkpoint, stage, self._ids, self._read, self._whole
        )

    def _read(self, num_bytes: int) -> None:
        self._done = min(self._done + num_bytes, self._total)
        self._progress(self._done, self._total)


def _check_calibration(recipe: Recipe, calibration: str | Path | None) -> None:
    if recipe.needs_calibration and calibration is None:
        message = (
            f"recipe {recipe.name} looks at activations; name a text of the kind the model will "
            "read with --calibration FILE"
        )
        raise UsageError(message)
    if calibration is not None and not recipe.needs_calibration:
        message = f"recipe {recipe.name} does not look at activations; leave out --calibration"
        raise UsageError(message)


def _fewer_layers(
    graph: Graph, recipe: Recipe, checkpoint: Checkpoint, ids: NDArray[np.int64]
) -> Graph:
    share = 0.0 if recipe.structure is None else recipe.structure.layers
    if num_removed(graph.arch.config.num_layers, share) == 0:
        return graph
    refuse_experts(graph.arch.config, recipe.name)
    return without_layers(graph, importance(graph, checkpoint, ids), share)


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
