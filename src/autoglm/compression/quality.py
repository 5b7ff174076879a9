"""Perplexity of a bundle beside that of another, with 95 % intervals over resampled windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoglm.engine.model import load_model
from autoglm.errors import InputError
from autoglm.inputs.text import read_text

MAX_TEXT_BYTES = 256 << 20
TEXTS = Path(__file__).parent / "texts"
_WINDOWS_WANTED = 16
_WINDOW_TOKENS = (64, 512)
_MAX_WINDOWS = 48
_RESAMPLED = 1000

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Perplexity of one text; rises are relative to the other bundle, in percent."""

    text: str
    num_tokens: int
    perplexity: float
    perplexity_low: float
    perplexity_high: float
    reference: float
    rise_percent: float
    rise_percent_low: float
    rise_percent_high: float


def default_texts() -> list[Path]:
    """The short texts that come with the package, one in English and one in Chinese."""
    return sorted(TEXTS.glob("*.txt"))


def compared(bundle: Path, reference: Path, texts: Sequence[Path]) -> list[Quality]:
    """The quality of a bundle on each text.

    InputError when a text cannot be read or is too short for a window.
    """
    contents = [read_text(str(path), max_bytes=MAX_TEXT_BYTES) for path in texts]
    found = []
    both = zip(_nats(bundle, texts, contents), _nats(reference, texts, contents), strict=True)
    for path, ((nats, counts), (wanted, _)) in zip(texts, both, strict=True):
        drawn = np.random.default_rng(0).integers(0, len(nats), (_RESAMPLED, len(nats)))
        totals = counts[drawn].sum(axis=1)
        perplexities = np.exp(nats[drawn].sum(axis=1) / totals)
        rises = np.exp((nats - wanted)[drawn].sum(axis=1) / totals)
        low, high = np.percentile(perplexities, [2.5, 97.5])
        rise_low, rise_high = np.percentile(rises, [2.5, 97.5])
        found.append(
            Quality(
                text=path.stem,
                num_tokens=int(counts.sum()),
                perplexity=float(np.exp(nats.sum() / counts.sum())),
                perplexity_low=float(low),
                perplexity_high=float(high),
                reference=float(np.exp(wanted.sum() / counts.sum())),
                rise_percent=_percent(np.exp((nats - wanted).sum() / counts.sum())),
                rise_percent_low=_percent(rise_low),
                rise_percent_high=_percent(rise_high),
            )
        )
    return found


def _nats(
    bundle: Path, texts: Sequence[Path], contents: Sequence[str]
) -> list[tuple[Doubles, Doubles]]:
    """For each text the loss of every window and how many tokens it counts."""
    found = []
    with load_model(bundle) as model:
        for path, content in zip(texts, contents, strict=True):
            ids = model.tokenizer.encode(content)
            window = int(np.clip(len(ids) // _WINDOWS_WANTED, *_WINDOW_TOKENS))
            window = min(window, model.config.max_position)
            starts = range(0, len(ids) - window + 1, window)[:_MAX_WINDOWS]
            if not starts:
                message = f"{path}: has {len(ids)} tokens; measuring quality needs {window}"
                raise InputError(message)
            nats = [model.score(ids[start : start + window]) for start in starts]
            counts = np.full(len(nats), window - 1, np.float64)
            found.append((np.array(nats, np.float64), counts))
    return found


def _percent(ratio: float) -> float:
    return 100.0 * (float(ratio) - 1.0)
