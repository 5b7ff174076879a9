"""Compare the engine with transformers on a checkpoint: top-1 agreement and KL divergence (R47).

The reference computes in float32 with the checkpoint's weights. Ends with 1 when the bf16 bundle
agrees on fewer than 99 % of the positions or its mean KL exceeds 1e-3.
Usage: parity.py [CHECKPOINT] [--text FILE]...; without a checkpoint a random model is made.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from random_checkpoint import SHAPES, write_checkpoint

from autoglm.engine.model import load_model
from autoglm.modelfile.arch import WEIGHT_FORMATS, WeightFormat
from autoglm.modelfile.convert import convert

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_TOP1 = 0.99
MAX_MEAN_KL = 1e-3
WINDOW_TOKENS = 1000
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over `num_positions`: the share with the same most likely token, and the mean KL in nats."""

    num_positions: int
    top1: float
    mean_kl: float

    @property
    def is_close(self) -> bool:
        """Whether it keeps the limits."""
        return self.top1 >= MIN_TOP1 and self.mean_kl <= MAX_MEAN_KL


def agreement(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """KL(reference || logits) and top-1 over rows of logits."""
    expected, found = _log_softmax(reference), _log_softmax(logits)
    kl = np.sum(np.exp(expected) * (expected - found), axis=1)
    same = expected.argmax(1) == found.argmax(1)
    return Agreement(len(kl), float(same.mean()), float(kl.mean()))


def merge(parts: list[Agreement]) -> Agreement:
    """The agreement over all positions of the parts."""
    num = sum(part.num_positions for part in parts)
    top1 = sum(part.top1 * part.num_positions for part in parts) / num
    return Agreement(num, top1, sum(part.mean_kl * part.num_positions for part in parts) / num)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_p: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def compare(
    checkpoint: Path, weights: WeightFormat, windows: list[list[int]], work: Path
) -> Agreement:
    """Convert the checkpoint and compare its logits, each window a sequence of its own."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM

    bundle = work / weights
    convert(checkpoint, bundle, weights)
    reference: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    reference.eval()
    parts = []
    with load_model(bundle) as model, torch.no_grad():
        for ids in windows:
            expected = reference(torch.tensor([ids])).logits[0].numpy()
            parts.append(agreement(model.logits(ids), expected))
    return merge(parts)


def text_windows(checkpoint: Path, texts: list[Path], num_positions: int) -> list[list[int]]:
    """The token ids of the texts, repeated to `num_positions`, cut into windows."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids: list[int] = []
    for path in texts:
        ids += tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False).ids
    ids = (ids * (num_positions // len(ids) + 1))[:num_positions]
    return [ids[start : start + WINDOW_TOKENS] for start in range(0, len(ids), WINDOW_TOKENS)]


def main() -> int:
    """Print one line for each weight format."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--text", action="append", type=Path, metavar="FILE")
    parser.add_argument("--positions", type=int, default=10_000)
    parser.add_argument("--weights", nargs="*", choices=WEIGHT_FORMATS, default=["bf16"])
    args = parser.parse_args()
    texts = args.text or sorted([*ROOT.glob("examples/*.txt"), *ROOT.glob("docs/**/*.md")])
    is_close = True
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        checkpoint = args.checkpoint or work / "random"
        if args.checkpoint is None:
            write_checkpoint(checkpoint, SHAPES["small"])
        windows = text_windows(checkpoint, texts, args.positions)
        for weights in args.weights:
            found = compare(checkpoint, weights, windows, work)
            sys.stdout.write(
                f"{checkpoint.name} {weights}: {found.num_positions} positions, "
                f"top-1 {100 * found.top1:.2f} %, mean KL {found.mean_kl:.1e}\n"
            )
            is_close = is_close and (found.is_close or weights not in ("fp32", "bf16"))
    return 0 if is_close else 1


if __name__ == "__main__":
    sys.exit(main())
