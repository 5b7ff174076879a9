"""Training corpora: which files, under which licence, how often, and how their text is cleaned.

Only licences that allow shipping weights appear here. Evaluation splits are never listed;
one document in a hundred of every plain-text corpus is held out by content hash.
"""

import hashlib
import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoglm.errors import require

Lang = Literal["zh", "en"]
Licence = Literal["public-domain", "permissive", "share-alike"]

_WINDOW_BYTES = 2**27
_HELD_OUT_MODULUS = 100
_MIN_PARAGRAPH_CHARS = 24
_PIECE_CHARS = 3000
_URL = re.compile(r"\(?https?://\S+\)?|\]\(\s*\)?")
_MARKER = re.compile(
    r"\{(?:disfmarker|vocalsound|gap|pause|nonvocalsound|comment)\}"
    r"|\[(?:laughs?|laughter|laughing|crosstalk|applause|chuckles?|pause)\]|（笑）"
)
_VARYING = re.compile(r"[\d\s]+")
_SPACES = re.compile(r"[ \t\u3000\xa0]+")
_SPACE_BEFORE_MARK = re.compile(r" +([,.?!;:%)]|'(?:s|t|m|re|ve|ll|d)\b|n't\b)")


@dataclass(frozen=True, slots=True)
class TextSource:
    """A plain-text corpus: documents separated by blank lines, one paragraph or turn a line."""

    name: str
    lang: Lang
    licence: Licence
    terms: str
    weight: float
    is_meeting: bool = False


TEXT_SOURCES: tuple[TextSource, ...] = (
    TextSource("text_zh_meetings_tw", "zh", "public-domain", "CC0 1.0", 6.0, is_meeting=True),
    TextSource("text_en_meetings_tw", "en", "public-domain", "CC0 1.0", 4.0, is_meeting=True),
    TextSource("text_en_meetings_ethpm", "en", "share-alike", "CC BY-SA 3.0", 2.0),
    TextSource("text_zh_lctt", "zh", "permissive", "Apache-2.0", 3.0),
    TextSource("text_zh_msdocs", "zh", "permissive", "CC BY 4.0", 1.5),
    TextSource("text_en_msdocs", "en", "permissive", "CC BY 4.0", 1.5),
    TextSource("text_en_books", "en", "public-domain", "public domain", 2.0),
    TextSource("text_zh_classics_modern", "zh", "permissive", "MIT", 1.5),
    TextSource("text_zh_laws", "zh", "public-domain", "official documents, no copyright", 0.4),
    TextSource("text_zh_docs_javaguide", "zh", "permissive", "Apache-2.0", 0.5),
    TextSource("text_zh_docs_d2l", "zh", "permissive", "Apache-2.0", 0.3),
    TextSource("text_zh_docs_tidb", "zh", "share-alike", "CC BY-SA 3.0", 0.2),
    TextSource("text_zh_docs_oiwiki", "zh", "share-alike", "CC BY-SA 4.0", 0.2),
    TextSource("text_zh_docs_paddle", "zh", "permissive", "Apache-2.0", 0.1),
    TextSource("text_zh_poetry", "zh", "permissive", "MIT", 0.1),
    TextSource("text_en_docs_handbook_sourcegraph", "en", "permissive", "Apache-2.0", 1.0),
    TextSource("text_en_docs_k8s_community", "en", "permissive", "Apache-2.0", 0.6),
    TextSource("text_en_docs_18f_guides", "en", "public-domain", "CC0 1.0", 0.4),
    TextSource("text_en_docs_rustbook", "en", "permissive", "MIT OR Apache-2.0", 0.2),
)

RECORD_FILES: dict[str, tuple[str, Licence, str]] = {
    "qmsum": ("sum_qmsum/train.jsonl.zst", "permissive", "MIT"),
    "crd3": ("sum_crd3/train.jsonl.zst", "share-alike", "CC BY-SA 4.0"),
    "vcsum": ("sum_vcsum/long_train.jsonl.zst", "permissive", "MIT"),
    "mtsdialog": ("sum_mtsdialog/MTS-Dialog-TrainingSet.jsonl.zst", "permissive", "CC BY 4.0"),
    "acibench": ("sum_acibench/train.jsonl.zst", "permissive", "CC BY 4.0"),
    "primock57": ("sum_primock57/primock57.jsonl.zst", "permissive", "CC BY 4.0"),
    "ethpm": ("sum_ethpm/meetings.jsonl.zst", "share-alike", "CC BY-SA 3.0"),
    "cmrc2018": ("qa_cmrc2018/train.jsonl.zst", "share-alike", "CC BY-SA 4.0"),
    "clinc150": ("int_clinc150/data_full.jsonl.zst", "permissive", "CC BY 3.0"),
    "banking77": ("int_banking77/banking77.jsonl.zst", "permissive", "CC BY 4.0"),
    "crosswoz": ("dlg_crosswoz/val.jsonl.zst", "permissive", "Apache-2.0"),
    "friendsqa": ("qa_friendsqa/dev.jsonl.zst", "permissive", "Apache-2.0"),
    "sgd": ("dlg_sgd/train.jsonl.zst", "share-alike", "CC BY-SA 4.0"),
    "taskmaster4": ("dlg_taskmaster4/tm4.jsonl.zst", "permissive", "CC BY 4.0"),
    "chatterbot": ("dlg_chatterbot/pairs.jsonl.zst", "permissive", "BSD-3-Clause"),
}


def open_zst(path: Path) -> io.TextIOWrapper:
    """UTF-8 text stream over a zstd file written with a window of up to 128 MiB."""
    zstandard = require("zstandard", extra="train")
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    return io.TextIOWrapper(reader.stream_reader(path.open("rb")), encoding="utf-8")


def read_records(data_dir: Path, name: str) -> Iterator[dict[str, Any]]:
    """Records of one JSON-lines set; rows that carry another split than `train` are dropped."""
    with open_zst(data_dir / RECORD_FILES[name][0]) as lines:
        for line in lines:
            record: dict[str, Any] = json.loads(line)
            if record.get("split", "train") in ("train", "oos_train"):
                yield record


def clean_line(line: str) -> str:
    """Drop links and transcription markers, undo tokenised English spacing, squeeze spaces."""
    line = _MARKER.sub(" ", _URL.sub(" ", line))
    return _SPACE_BEFORE_MARK.sub(r"\1", _SPACES.sub(" ", line)).strip()


def is_held_out(document: str) -> bool:
    """True for the one document in a hundred that training never sees."""
    digest = hashlib.sha1(document[:400].encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big") % _HELD_OUT_MODULUS == 0


def text_path(data_dir: Path, source: TextSource) -> Path:
    """The one compressed file of a plain-text corpus."""
    (path,) = sorted((data_dir / source.name).glob("*.txt.zst"))
    return path


class Paragraphs:
    """Remembers longer paragraphs; two that differ in digits, case or spaces count as one."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()
        self.num_dropped = 0

    def is_new(self, line: str) -> bool:
        """True the first time; short lines always."""
        if len(line) < _MIN_PARAGRAPH_CHARS:
            return True
        plain = _VARYING.sub("", line.lower())
        digest = hashlib.sha1(plain.encode(), usedforsecurity=False).digest()[:8]
        if digest in self._digests:
            self.num_dropped += 1
            return False
        self._digests.add(digest)
        return True


def read_documents(
    data_dir: Path, source: TextSource, seen: Paragraphs | None = None, *, held_out: bool = False
) -> Iterator[str]:
    """Cleaned documents of a corpus without the longer paragraphs that `seen` knows."""
    seen = seen or Paragraphs()
    for lines in _raw_documents(text_path(data_dir, source)):
        if is_held_out("\n".join(lines)) == held_out:
            text = _clean(lines, seen)
            if text:
                yield text


def _raw_documents(path: Path) -> Iterator[list[str]]:
    lines: list[str] = []
    with open_zst(path) as stream:
        for raw in stream:
            line = raw.rstrip("\n")
            if line:
                lines.append(line)
            elif lines:
                yield lines
                lines = []
    if lines:
        yield lines


def sample_pieces(
    data_dir: Path, source: TextSource, max_chars: int, rng: random.Random, *, held_out: bool
) -> list[str]:
    """About `max_chars` characters of a corpus in random pieces of `_PIECE_CHARS`, shuffled.

    A first pass counts, so that the pieces come evenly from the whole file.
    """
    path = text_path(data_dir, source)
    available = sum(len(line) for lines in _raw_documents(path) for line in lines)
    available = available // _HELD_OUT_MODULUS if held_out else available
    fraction = min(1.0, 1.1 * max_chars / max(1, available))
    seen = Paragraphs()
    pieces: list[str] = []
    for lines in _raw_documents(path):
        if is_held_out("\n".join(lines)) != held_out:
            continue
        start = 0
        while start < len(lines):
            stop, size = start, 0
            while stop < len(lines) and size < _PIECE_CHARS:
                size += len(lines[stop])
                stop += 1
            if rng.random() < fraction:
                pieces.append(_clean(lines[start:stop], seen))
            start = stop
    rng.shuffle(pieces)
    return [piece for piece in pieces if piece]


def _clean(lines: list[str], seen: Paragraphs) -> str:
    return "\n".join(line for line in map(clean_line, lines) if line and seen.is_new(line))
