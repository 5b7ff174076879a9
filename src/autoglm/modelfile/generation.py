"""How a checkpoint wants to be sampled: end-of-sequence ids and its sampling defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoglm.modelfile.fields import Fields
from autoglm.modelfile.files import resolve_inside
from autoglm.modelfile.strict_json import read_json

GENERATION_NAME = "generation_config.json"

_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (1e-9, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 100.0),
}


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """`sampling` holds what is set of temperature, top_k, top_p, min_p and repetition_penalty."""

    eos_ids: tuple[int, ...]
    sampling: Mapping[str, float]


def read_generation(directory: Path, config: Fields, vocab_size: int) -> GenerationDefaults:
    """From `generation_config.json` where it is set, else from `config.json`.

    Ids beyond the vocabulary cannot be produced and are dropped: small models often keep the ids of
    the family they were cut from.
    """
    generation = Fields({}, str(directory / GENERATION_NAME))
    if (directory / GENERATION_NAME).exists():
        path = resolve_inside(directory, GENERATION_NAME)
        generation = Fields(read_json(path), str(path))
    eos_ids = _ids("eos_token_id", generation, config, vocab_size)
    sampling: dict[str, float] = {
        key: generation.real(key, low, high)
        for key, (low, high) in _RANGES.items()
        if generation.has(key)
    }
    if generation.has("top_k"):
        sampling["top_k"] = max(generation.integer("top_k", -1, 1 << 30), 0)
    return GenerationDefaults(eos_ids, sampling)


def _ids(key: str, generation: Fields, config: Fields, vocab_size: int) -> tuple[int, ...]:
    source = generation if generation.has(key) else config
    return tuple(token for token in source.integers(key) if token < vocab_size)
