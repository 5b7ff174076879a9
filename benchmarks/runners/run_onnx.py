"""The peer ONNX Runtime GenAI, int4 weights. Usage: run_onnx.py DIR THREADS"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime_genai as og
from protocol import RandomIds, serve

MAX_TOKENS = 8192


class OnnxEngine:
    """One generator after another, greedy, never ended by a token."""

    def __init__(self, directory: str, threads: int) -> None:
        config = og.Config(directory)
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = og.Model(config)
        described = json.loads((Path(directory) / "genai_config.json").read_text(encoding="utf-8"))
        self._ids = RandomIds(described["model"]["vocab_size"])
        self._generator: Any = None
        self.reset()

    def reset(self) -> None:
        self._generator = None  # frees its cache before the next is made
        params = og.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, max_length=MAX_TOKENS, min_length=MAX_TOKENS)
        self._generator = og.Generator(self._model, params)

    def feed(self, num_tokens: int) -> None:
        self._generator.append_tokens(self._ids(num_tokens))

    def decode(self, num_tokens: int) -> None:
        for _ in range(num_tokens):
            self._generator.generate_next_token()

    def rows(self, num_tokens: int) -> None:
        """Append and rewind; the generator keeps the logits of the last token only."""
        length = self._generator.token_count()
        self._generator.append_tokens(self._ids(num_tokens))
        self._generator.rewind_to(length)


if __name__ == "__main__":
    what = f"ONNX Runtime GenAI {version('onnxruntime-genai')}, int4"
    serve(OnnxEngine(sys.argv[1], int(sys.argv[2])), what)
