"""Our own engine under the protocol of the peers. Usage: run_ours.py BUNDLE THREADS {fast,exact}"""

from __future__ import annotations

import sys
from pathlib import Path

from protocol import RandomIds, serve

from autoglm.engine.native import NativeModel
from autoglm.modelfile.bundle import open_bundle
from autoglm.types import SamplingParams

MAX_TOKENS = 8192


class OwnEngine:
    """One session after another of one model; drafts off, as random weights repeat themselves."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        bundle = open_bundle(path)
        tokens = min(MAX_TOKENS, bundle.max_position)
        self._model = NativeModel(
            bundle,
            pool_tokens=tokens,
            threads=threads,
            has_prompt_lookup=False,
            precision=precision,
        )
        self._ids = RandomIds(bundle.config.vocab_size)
        self.what = f"autoglm, {bundle.weights}, {precision}, {self._model.isa}"
        self.reset()

    def reset(self) -> None:
        self._session = self._model.session(SamplingParams(ignore_eos=True))

    def feed(self, num_tokens: int) -> None:
        self._session.prefill(self._ids(num_tokens))

    def decode(self, num_tokens: int) -> None:
        self._session.decode(num_tokens)

    def rows(self, num_tokens: int) -> None:
        self._model.logits(self._ids(num_tokens))


if __name__ == "__main__":
    engine = OwnEngine(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    serve(engine, engine.what)
