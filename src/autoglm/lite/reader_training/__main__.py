"""Train the reader and write its file; `--only` trains parts anew and keeps the others."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from autoglm.lite.reader.weights import read_tensors, write_tensors
from autoglm.lite.reader_training import answers, intents, summaries
from autoglm.lite.reader_training.tables import Arrays, rarity, rarity_table, usage

_THREADS = 1  # more would add in another order, and wait for each other on a busy machine

_PARTS: dict[str, Callable[[Path, Arrays, int], Arrays]] = {
    "rarity": lambda data_dir, _, __: rarity(data_dir),
    "usage": lambda data_dir, _, __: usage(data_dir),
    "intents": lambda data_dir, _, seed: intents.train(data_dir, seed),
    "answers": lambda data_dir, known, seed: answers.train(data_dir, rarity_table(known), seed),
    "summaries": lambda data_dir, known, seed: summaries.train(data_dir, rarity_table(known), seed),
}


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(prog="python -m autoglm.lite.reader_training")
    parser.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="the file, reader.safetensors")
    parser.add_argument("--only", nargs="+", choices=sorted(_PARTS), help="parts to train anew")
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(_THREADS)
    found: Arrays = read_tensors(args.out) if args.only else {}
    for name in args.only or _PARTS:
        made = _PARTS[name](args.data, found, args.seed)
        # A part may have fewer tensors than it had.
        kinds = {key.partition(".")[0] for key in made}
        kept = {key: value for key, value in found.items() if key.partition(".")[0] not in kinds}
        found = kept | made
    write_tensors(args.out, found)


if __name__ == "__main__":
    main()
