"""Tables over hashed terms: how rare a term is, and how much more summaries use it than speech."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoglm.lite.reader.text import terms
from autoglm.lite.reader.weights import TermTable, hashes
from autoglm.lite.sources import TEXT_SOURCES, read_documents, read_records

_RARITY_SIZE, _USAGE_SIZE = 2**18, 2**17
_PIECE_CHARS, _DOCUMENT_CHARS = 1500, 60_000
_CHARS, _CHARS_OF_OLD = 1_500_000, 600_000
_OLD = ("poetry", "laws", "classics", "books")  # less like what users read
_MEETINGS, _NUM_MEETINGS, _MEETING_CHARS = "text_zh_meetings_tw", 40, 50_000
_PRIOR, _MASS = 2.0, 2e4

Arrays = dict[str, npt.NDArray[Any]]


def rarity(data_dir: Path) -> Arrays:
    """Inverse document frequencies over pieces of every plain-text corpus, in steps of 0.05."""
    counts = {lang: np.zeros(_RARITY_SIZE) for lang in ("zh", "en")}
    num = {"zh": 0, "en": 0}
    for source in TEXT_SOURCES:
        left = _CHARS_OF_OLD if any(word in source.name for word in _OLD) else _CHARS
        for document in read_documents(data_dir, source):
            document = document[:_DOCUMENT_CHARS]
            for start in range(0, len(document), _PIECE_CHARS):
                found = set(terms(document[start : start + _PIECE_CHARS]))
                np.add.at(counts[source.lang], np.unique(hashes(found, _RARITY_SIZE)), 1)
                num[source.lang] += 1
            left -= len(document)
            if left < 0:
                break
    share = sum(counts[lang] / max(1, num[lang]) for lang in counts)
    values = -np.log(np.maximum(share, 1 / max(num.values())))
    codes = np.round(values / 0.05).clip(0, 255).astype(np.uint8)
    return {"rarity": codes, "rarity.step": np.array([0.05], dtype=np.float32)}


def usage(data_dir: Path) -> Arrays:
    """Log of how much more often VCSum's summaries use a term than meetings do."""
    written = Counter[str]()
    for record in read_records(data_dir, "vcsum"):
        written.update(terms(record["summary"]))
    spoken = Counter[str]()
    source = next(source for source in TEXT_SOURCES if source.name == _MEETINGS)
    for document in islice(read_documents(data_dir, source), _NUM_MEETINGS):
        spoken.update(terms(document[:_MEETING_CHARS]))
    ratio = (spoken.total() + _MASS) / (written.total() + _MASS)
    known = sorted(written | spoken, key=lambda term: written[term] + spoken[term])
    values = [np.log(ratio * (written[t] + _PRIOR) / (spoken[t] + _PRIOR)) for t in known]
    codes = np.zeros(_USAGE_SIZE, dtype=np.int8)
    # The most frequent of the terms that share a place comes last and stays.
    codes[hashes(known, _USAGE_SIZE)] = np.round(np.array(values) / 0.04).clip(-127, 127)
    return {"usage": codes, "usage.step": np.array([0.04], dtype=np.float32)}


def rarity_table(arrays: dict[str, Any]) -> TermTable:
    """The table that the other parts are trained with."""
    return TermTable(arrays["rarity"], float(arrays["rarity.step"][0]))
