"""Full check of a bundle: all bytes against the manifest, all tensors against config.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoglm.modelfile.arch import WeightFormat
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.files import model_directory
from autoglm.modelfile.manifest import check_manifest
from autoglm.modelfile.tokenizer import check_vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found in order."""

    path: Path
    architecture: str
    weights: WeightFormat
    num_tensors: int
    weights_bytes: int
    num_bytes: int


def verify(
    path: str | Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Check a bundle; a ModelFileError names the first fault.

    `progress` gets the bytes done and in all.
    """
    directory = model_directory(Path(path))
    num_bytes = check_manifest(directory, progress=progress)
    bundle = open_bundle(directory)
    if bundle.tokenizer_path.exists():
        check_vocabulary(bundle.tokenizer_path, bundle.config.vocab_size)
    return Verification(
        path=directory,
        architecture=bundle.architecture,
        weights=bundle.weights,
        num_tensors=len(bundle.tensors),
        weights_bytes=bundle.weights_bytes,
        num_bytes=num_bytes,
    )
