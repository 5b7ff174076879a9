"""Greedy or sampled answers of a checkpoint, to look at during training.

Run as `python -m autoglm.lite.sample --checkpoint FILE --tokenizer FILE --prompt TEXT [--file F]`.
"""

import argparse
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

from autoglm.lite.checkpoint import load_checkpoint
from autoglm.lite.model import LiteModel
from autoglm.lite.tokenizer import ASSISTANT, EOS_TOKENS, MASK, SOP, USER, token_id


def answer(
    model: LiteModel, tokenizer: Tokenizer, message: str, max_tokens: int, temperature: float = 0.0
) -> str:
    """The model's reply to one user message. Recomputes the prefix at every token."""
    ids = [token_id(tokenizer, token) for token in (MASK, SOP, USER)]
    ids += tokenizer.encode("\n" + message).ids
    ids += [token_id(tokenizer, ASSISTANT), *tokenizer.encode("\n").ids]
    stops = {token_id(tokenizer, token) for token in EOS_TOKENS}
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < min(start + max_tokens, model.config.max_position):
            choice = _next_id(model, ids, temperature)
            if choice in stops:
                break
            ids.append(choice)
    return tokenizer.decode(ids[start:])


def _next_id(model: LiteModel, ids: list[int], temperature: float) -> int:
    logits = model.hidden(torch.tensor([ids]))[0, -1] @ model.embed.weight.t()
    if temperature > 0:
        return int(torch.multinomial(torch.softmax(logits / temperature, -1), 1))
    return int(logits.argmax())


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--file", type=Path, help="text the prompt is about")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    args = parser.parse_args()
    text = args.file.read_text(encoding="utf-8") if args.file else ""
    message = f"{args.prompt}\n\n{text}" if text else args.prompt
    model = load_checkpoint(args.checkpoint)
    reply = answer(
        model, Tokenizer.from_file(str(args.tokenizer)), message, args.max_tokens, args.temperature
    )
    sys.stdout.write(reply + "\n")


if __name__ == "__main__":
    main()
