"""Rows of a task for `autoglm compress`, from public sets or from rows that LITE was packed from.

task_rows.py --packed DIR --tokenizer FILE --out FILE takes what `autoglm.lite.pack` has written:
with `--held-out` for --eval-task, without for --calibration and --recover. task_rows.py --data DIR
--task NAME --out FILE takes questions of a set of `autoglm eval` with the part of its text that
fits LITE: whole short texts, and of QMSum the turns a question is about.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from autoglm.lite.evaluation.items import TASKS, Item, load_items, read_set
from autoglm.lite.sources import clean_line
from autoglm.lite.tokenizer import ASSISTANT, END, SOP, token_id
from autoglm.lite.transcripts import Turn, render

QMSUM = "qmsum"
Row = dict[str, str]


def packed_rows(directory: Path, tokenizer: Tokenizer) -> Iterator[Row]:
    """The examples in packed rows; running text between them is left out."""
    length = json.loads((directory / "card.json").read_text(encoding="utf-8"))["row_tokens"]
    begin, answer, end = (token_id(tokenizer, name) for name in (SOP, ASSISTANT, END))
    for path in sorted(directory.glob("tokens_*.bin")):
        for ids in np.fromfile(path, np.uint16).reshape(-1, length):
            stops = np.flatnonzero(ids == end)
            for start in np.flatnonzero(ids == begin):
                if not (after := stops[stops > start]).size:
                    continue
                example = ids[start + 2 : after[0]]
                [split, *_] = [*np.flatnonzero(example == answer), len(example)]
                user, reference = (
                    tokenizer.decode(part.tolist()).strip()
                    for part in (example[:split], example[split + 1 :])
                )
                if user and reference:
                    prompt, _, text = user.partition("\n\n")
                    yield {"prompt": prompt, "text": text, "reference": reference}


def public_rows(data: Path, name: str) -> Iterator[Row]:
    """The items of a task of `autoglm eval`."""
    task = next(each for each in TASKS if each.name == name)
    items = _qmsum_parts(data, task.file) if name == QMSUM else load_items(data, task)
    for item in items:
        if item.references:
            yield {"prompt": item.prompt, "text": item.text, "reference": item.references[0]}


def _qmsum_parts(data: Path, file: str) -> Iterator[Item]:
    """Questions about a part of a meeting, with the turns that the set says they are about."""
    for record in read_set(data, file):
        turns = [
            Turn(turn["speaker"], clean_line(turn["content"]))
            for turn in record["meeting_transcripts"]
        ]
        for query in record["specific_query_list"]:
            spans = [(int(first), int(last)) for first, last in query["relevant_text_span"]]
            about = [turn for first, last in spans for turn in turns[first : last + 1]]
            text = render([turn for turn in about if turn.text], "en")
            yield Item(query["query"], text, (query["answer"],), "en")


def fitting(rows: Iterator[Row], tokenizer: Tokenizer, max_tokens: int) -> Iterator[Row]:
    """Those whose prompt and text are so short."""
    for row in rows:
        ids = tokenizer.encode(f"{row['prompt']}\n\n{row['text']}", add_special_tokens=False).ids
        if len(ids) <= max_tokens:
            yield row


def spread(rows: Sequence[Row], limit: int) -> Sequence[Row]:
    """At most so many, at even distances."""
    if not 0 < limit < len(rows):
        return rows
    return [rows[index * len(rows) // limit] for index in range(limit)]


def main() -> int:
    """Write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--packed", metavar="DIR", type=Path)
    what.add_argument("--data", metavar="DIR", type=Path)
    names = [task.name for task in TASKS if task.kind in ("summary", "answer")]
    parser.add_argument("--task", choices=names, default=QMSUM)
    parser.add_argument("--tokenizer", metavar="FILE", type=Path, required=True)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)
    parser.add_argument("--max-tokens", type=int, default=800, help="of prompt and text")
    parser.add_argument("--limit", type=int, default=0, help="rows at most, evenly spread")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    if args.packed is None:
        rows = public_rows(args.data, args.task)
    else:
        rows = packed_rows(args.packed, tokenizer)
    chosen = spread(list(fitting(rows, tokenizer, args.max_tokens)), args.limit)
    with args.out.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
    print(f"{args.out}: {len(chosen)} rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
