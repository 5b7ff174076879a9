"""Running texts that a model is scored on by likelihood: wikitext-2 and held-out Chinese."""

import random
from collections.abc import Callable
from pathlib import Path

from autoglm.lite.sources import TEXT_SOURCES, open_zst, read_documents

_WIKITEXT = "lm_wikitext2_eval/valid.txt.zst"
_CHARS = 200_000
_CHARS_PER_ITEM = 2000
_SEED = 11


def _wikitext(data_dir: Path) -> str:
    with open_zst(data_dir / _WIKITEXT) as lines:
        return lines.read(_CHARS)


def _held_out_zh(data_dir: Path) -> str:
    """Documents of the Chinese corpora that no training sees, by their content's hash."""
    documents: list[str] = []
    for source in TEXT_SOURCES:
        if source.lang == "zh" and any((data_dir / source.name).glob("*.txt.zst")):
            documents += [text[:4000] for text in read_documents(data_dir, source, held_out=True)]
    random.Random(_SEED).shuffle(documents)
    return "\n\n".join(documents)[:_CHARS]


TEXTS: dict[str, Callable[[Path], str]] = {"wikitext2": _wikitext, "held_out_zh": _held_out_zh}


def has_text(data_dir: Path, name: str) -> bool:
    """True if the data directory holds the text."""
    if name == "wikitext2":
        return (data_dir / _WIKITEXT).is_file()
    return any(
        any((data_dir / source.name).glob("*.txt.zst"))
        for source in TEXT_SOURCES
        if source.lang == "zh"
    )


def load_text(data_dir: Path, name: str, limit: int | None) -> str:
    """The first part of a text; with a limit, 2,000 characters for every item it allows."""
    text = TEXTS[name](data_dir)
    return text[: _CHARS_PER_ITEM * limit] if limit else text
