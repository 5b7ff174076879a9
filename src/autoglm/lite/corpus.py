"""Every licensed text as token ids, one file a source, with a card of counts, licences and repeats.

Run as `python -m autoglm.lite.corpus --data DIR --tokenizer FILE --out DIR`. How often an epoch
reads a source falls with its size by a temperature, so that large sources do not drown small ones.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from autoglm.lite.sources import TEXT_SOURCES, Paragraphs, TextSource, read_documents
from autoglm.lite.tokenizer import END, token_id

_BATCH_DOCUMENTS = 64
_BATCH_CHARS = 200_000


def write_source(
    data_dir: Path,
    source: TextSource,
    tokenizer: Tokenizer,
    out: Path,
    seen: Paragraphs,
    *,
    held_out: bool,
) -> int:
    """Encode one source into `tokens_NAME.bin`; returns its tokens."""
    end = token_id(tokenizer, END)
    count = 0
    documents = read_documents(data_dir, source, seen, held_out=held_out)
    with (out / f"tokens_{source.name}.bin").open("wb") as target:
        for batch in _batches(documents):
            for encoding in tokenizer.encode_batch_fast(batch):
                ids = np.array([*encoding.ids, end], dtype=np.uint16)
                target.write(ids.tobytes())
                count += len(ids)
    return count


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    """Lists of documents; a long document is cut at line ends, which no token crosses."""
    pieces = (piece for document in documents for piece in _pieces(document))
    while batch := list(islice(pieces, _BATCH_DOCUMENTS)):
        yield batch


def _pieces(document: str) -> Iterator[str]:
    start = 0
    while len(document) - start > _BATCH_CHARS:
        cut = document.rfind("\n", start, start + _BATCH_CHARS)
        cut = cut if cut > start else start + _BATCH_CHARS
        yield document[start:cut]
        start = cut
    yield document[start:]


def repeats(tokens: dict[str, int], *, temperature: float, most: float) -> dict[str, float]:
    """Readings of each source an epoch: weight x size^(temperature - 1), the total kept, capped."""
    weights = {source.name: source.weight for source in TEXT_SOURCES}
    wanted = {name: weights[name] * count**temperature for name, count in tokens.items() if count}
    scale = sum(tokens.values()) / sum(wanted.values())
    return {
        name: round(min(most, scale * share / tokens[name]), 3) for name, share in wanted.items()
    }


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--row-tokens", type=int, default=1024)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--most-repeats", type=float, default=4.0)
    parser.add_argument("--held-out", action="store_true", help="only the held-out documents")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    args.out.mkdir(parents=True, exist_ok=True)
    seen = Paragraphs()
    tokens: dict[str, int] = {}
    for source in TEXT_SOURCES:
        tokens[source.name] = write_source(
            args.data, source, tokenizer, args.out, seen, held_out=args.held_out
        )
        sys.stderr.write(f"{source.name}: {tokens[source.name] / 1e6:.2f} M tokens\n")
    readings = repeats(tokens, temperature=args.temperature, most=args.most_repeats)
    card = {
        "row_tokens": args.row_tokens,
        "tokens": sum(tokens.values()),
        "repeated_paragraphs": seen.num_dropped,
        "sources": [
            {
                "name": source.name,
                "tokens": tokens[source.name],
                "repeat": readings.get(source.name, 0.0),
                "licence": [source.licence, source.terms],
            }
            for source in TEXT_SOURCES
        ],
    }
    (args.out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
