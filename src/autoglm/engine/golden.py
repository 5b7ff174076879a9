"""The golden prompt of a bundle: what its tokens were worth when it was made, asked again at load.

A bundle whose bytes have changed, or kernels that compute something else on this processor, would
answer nonsense without a word. Bundles without `golden.json` are not asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.config import EXACT
from autoglm.errors import ModelFileError
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.files import resolve_inside
from autoglm.modelfile.strict_json import read_json
from autoglm.types import Cancellation

if TYPE_CHECKING:
    from autoglm.engine.native import NativeModel

GOLDEN_NAME = "golden.json"
GOLDEN_FORMAT = 1
NUM_TOKENS = 17
MAX_TOKENS = 64
# Mean difference of log probabilities in nats. Paths differ in the order of float sums; "fast" also
# rounds activations and the KV cache to 8 bits.
TOLERANCE = 0.05
FAST_TOLERANCE = 0.5
_STRIDE = 2654435761  # spreads the prompt over the vocabulary


def golden_text(model: NativeModel, vocab_size: int) -> bytes:
    """The contents of `golden.json` for a model just made."""
    ids = [i * _STRIDE % vocab_size for i in range(NUM_TOKENS)]
    values = [round(entry.logprob, 4) for entry in model.logprobs(ids, 0, Cancellation())]
    golden = {"format": GOLDEN_FORMAT, "ids": ids, "logprobs": values}
    return json.dumps(golden).encode() + b"\n"


def check_golden(directory: Path, model: NativeModel, *, vocab_size: int, precision: str) -> None:
    """Ask the golden prompt, if there is one; ModelFileError when the answer is another."""
    if not (directory / GOLDEN_NAME).exists():
        return
    path = resolve_inside(directory, GOLDEN_NAME)
    fields = Fields(read_json(path), str(path))
    fields.integer("format", GOLDEN_FORMAT, GOLDEN_FORMAT)
    ids = fields.integers("ids")
    wanted = fields.reals("logprobs")
    if not 2 <= len(ids) <= MAX_TOKENS or max(ids) >= vocab_size:
        fields.refuse("ids", f"2 to {MAX_TOKENS} tokens of the vocabulary")
    if len(wanted) != len(ids) - 1:
        fields.refuse("logprobs", "a number for every token but the first")
    seen = [entry.logprob for entry in model.logprobs(ids, 0, Cancellation())]
    difference = sum(abs(a - b) for a, b in zip(seen, wanted, strict=True)) / len(wanted)
    tolerance = TOLERANCE if precision == EXACT else FAST_TOLERANCE
    if difference <= tolerance:
        return
    message = (
        f"{directory}: the golden prompt differs by {difference:.3f} nats a token, at most "
        f"{tolerance} is right: the bundle has changed (see: autoglm verify), or the kernels of "
        f"the path {model.isa} compute something else here (try AUTOGLM_ISA=scalar)"
    )
    raise ModelFileError(message)
