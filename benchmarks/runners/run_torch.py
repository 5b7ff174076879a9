"""The peer transformers on PyTorch. Usage: run_torch.py CHECKPOINT THREADS {bfloat16,float32}"""

from __future__ import annotations

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from protocol import RandomIds, serve
from transformers import AutoModelForCausalLM, DynamicCache


class TorchEngine:
    """Default attention (scaled_dot_product_attention) and the default cache."""

    def __init__(self, path: str, threads: int, dtype: str) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), pad_token_id=0
        ).eval()
        self._ids = RandomIds(self._model.config.vocab_size)
        self.reset()

    def reset(self) -> None:
        self._cache = DynamicCache()
        self._next = torch.zeros(1, 1, dtype=torch.long)

    def feed(self, num_tokens: int) -> None:
        logits = self._forward(torch.tensor([self._ids(num_tokens)]), keep=1)
        self._next = logits[:, -1:].argmax(-1)

    def decode(self, num_tokens: int) -> None:
        for _ in range(num_tokens):
            self._next = self._forward(self._next, keep=1)[:, -1:].argmax(-1)

    def rows(self, num_tokens: int) -> None:
        self._forward(torch.tensor([self._ids(num_tokens)]), keep=num_tokens).argmax(-1)
        self._cache.crop(-num_tokens)

    def _forward(self, ids: torch.Tensor, *, keep: int) -> torch.Tensor:
        output = self._model(
            input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=keep
        )
        return output.logits


if __name__ == "__main__":
    serve(
        TorchEngine(sys.argv[1], int(sys.argv[2]), sys.argv[3]),
        f"transformers {transformers.__version__} on torch {torch.__version__}, {sys.argv[3]}",
    )
