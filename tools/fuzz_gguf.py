"""Break tiny GGUF files at random and compress what is left: a bundle or an AutoGLMError.

Prints how the trials ended as JSON. Any other exception, or a warning, ends the program with the
number of its trial; after a crash the file at fault lies in WORK.
Usage: fuzz_gguf.py WORK [--trials N] [--seed S]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from autoglm.compression.pipeline import compress
from autoglm.errors import AutoGLMError

ALIGNMENT = 32
HIDDEN, INNER, VOCAB, HEADS = 256, 256, 24, 4
# Number of the type, values and bytes of a block: what a model of others comes in.
KINDS = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}
NUMBERS = (0, 1, 2, 3, 31, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
RECIPES = ("int8-dynamic", "w4a8", "int8-per-tensor")
KEYS: dict[str, int | float | str | list[str]] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": 2,
    "llama.vocab_size": VOCAB,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.tokens": [f"w{number}" for number in range(VOCAB)],
}
SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (VOCAB, HIDDEN),
    "blk.0.attn_norm.weight": (HIDDEN,),
    "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
    "blk.0.attn_k.weight": (HIDDEN // 2, HIDDEN),
    "blk.0.attn_v.weight": (HIDDEN // 2, HIDDEN),
    "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_norm.weight": (HIDDEN,),
    "blk.0.ffn_gate.weight": (INNER, HIDDEN),
    "blk.0.ffn_up.weight": (INNER, HIDDEN),
    "blk.0.ffn_down.weight": (HIDDEN, INNER),
    "output_norm.weight": (HIDDEN,),
}


def text(value: str) -> bytes:
    """A length of 64 bits and the bytes."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str, value: int | float | str | list[str]) -> bytes:
    """A key, the number of its type and its value."""
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    items = b"".join(text(item) for item in value)
    return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + items


def model(kind: str, rng: random.Random) -> tuple[bytes, int]:
    """A file whose matrices have this type, and where its header ends."""
    header, data = b"", b""
    for name, shape in SHAPES.items():
        code, values, size = KINDS[kind if len(shape) > 1 else "F32"]
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        header += text(name) + dims + struct.pack("<IQ", code, len(data))
        # Low bytes keep the halves among them finite and small.
        block = bytes(rng.randrange(0x3B) for _ in range(math.prod(shape) // values * size))
        data += block + bytes(-len(block) % ALIGNMENT)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(SHAPES), len(KEYS))
    head = start + b"".join(entry(*item) for item in KEYS.items()) + header
    head += bytes(-len(head) % ALIGNMENT)
    return head + data, len(head)


def broken(content: bytes, header_bytes: int, rng: random.Random) -> bytes:
    """The file after one to three edits, half of them in its header."""
    result = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        edit = rng.randrange(8)
        end = header_bytes if rng.random() < 0.5 else len(result)
        place = rng.randrange(min(end, len(result)))
        if edit == 0:
            del result[place:]
        elif edit == 1:
            result[place : place + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
        elif edit < 5:
            result[place : place + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        else:
            result[place : place + 4] = struct.pack("<I", rng.choice(NUMBERS) % 2**32)
        if not result:
            break
    return bytes(result)


def run(file: Path, out: Path, recipe: str) -> str:
    """Compress; "written", or the name of the error's class."""
    try:
        compress(file, recipe, out=out)
    except AutoGLMError as err:
        return type(err).__name__
    return "written"


def trials(work: Path, numbers: Sequence[int], seed: int) -> Counter[str]:
    """How these trials ended."""
    work.mkdir(parents=True, exist_ok=True)
    models = [model(kind, random.Random(f"{seed}/{kind}")) for kind in KINDS]
    endings: Counter[str] = Counter()
    for number in numbers:
        rng = random.Random(f"{seed}/{number}")
        content, header_bytes = rng.choice(models)
        file, out = work / "broken.gguf", work / "out"
        is_whole = number % 50 == 0
        file.write_bytes(content if is_whole else broken(content, header_bytes, rng))
        try:
            ending = run(file, out, rng.choice(RECIPES))
        except Exception:
            sys.stderr.write(f"trial {number} of seed {seed} failed; its file is {file}\n")
            raise
        if is_whole and ending != "written":
            message = f"a whole file ended in {ending}"
            raise RuntimeError(message)
        endings[ending] += 1
        shutil.rmtree(out, ignore_errors=True)
    return endings


def main() -> int:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", metavar="WORK", type=Path, help="an empty or new directory")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("error")
    endings = trials(args.work, range(args.trials), args.seed)
    sys.stdout.write(json.dumps(dict(endings.most_common())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
