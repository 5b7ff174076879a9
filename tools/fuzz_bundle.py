"""Break tiny bundles at random, load what is left and decode: an answer or an AutoGLMError.

Prints how the trials ended as JSON. Any other exception ends the program with the number of its
trial; after a crash the bundle at fault lies in WORK. Usage: fuzz_bundle.py WORK [--trials N]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import re
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from random_checkpoint import byte_tokenizer

from autoglm.engine.model import load_model
from autoglm.errors import AutoGLMError
from autoglm.modelfile.arch import WeightFormat, parse_architecture
from autoglm.modelfile.convert import convert
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.layout import TILE_COLS, Matrix, bundle_tensors
from autoglm.types import Message, Request, SamplingParams

SIZES: dict[str, object] = {
    "vocab_size": 270,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "eos_token_id": [256, 260],
}
MIXTURE: dict[str, object] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
MODELS: tuple[tuple[str, WeightFormat, dict[str, object]], ...] = (
    ("GlmForCausalLM", "int8", {}),
    ("Glm4ForCausalLM", "fp32", {}),
    ("Glm4MoeForCausalLM", "int4", MIXTURE),
    ("Glm4MoeForCausalLM", "bf16", {**MIXTURE, "use_qk_norm": True}),
    ("Qwen3ForCausalLM", "int4", {"tie_word_embeddings": True}),
    ("Qwen3ForCausalLM", "int3", {"tie_word_embeddings": True}),
    ("Qwen2ForCausalLM", "half8", {}),
    ("LlamaForCausalLM", "sparse8", {}),
    ("Qwen2ForCausalLM", "block8", {"hidden_size": 128, "intermediate_size": 130}),
)
WEIGHTS = "model.safetensors"
PIECES = (b"0", b"-1", b"1e999", b"null", b"true", b'""', b"[]", b"{}", b'"\\ud800"', b"[", b"]")
MARKS = (b"{", b"}", b",", b":", b'"', b"\\", b"\x00", b"\xff")
NUMBERS = (0, 1, 2, 3, 7, 16, 64, 2**16, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1)
NOT_FINITE = (math.nan, math.inf, -math.inf, 3e38, -0.0, 1e-40)


def is_kept(weights: WeightFormat, column: int) -> bool:
    """Whether a format that leaves out zeros has room for this column of every row."""
    if weights == "block8":
        return column // TILE_COLS % 2 == 0
    return column % {"half8": 2, "sparse8": 5}.get(weights, 1) == 0


def write_checkpoint(
    path: Path, config: dict[str, object], weights: WeightFormat, rng: random.Random
) -> None:
    """A checkpoint with the tensors that the configuration needs, random where values are kept."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    byte_tokenizer().save(str(path / "tokenizer.json"))
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in bundle_tensors(parse_architecture(Fields(config, "config"), "fp32")):
        stacks = tensor.experts if isinstance(tensor, Matrix) else (tensor.pieces,)
        shapes |= {rows.source: rows.source_shape for pieces in stacks for rows in pieces}
    header, data = {}, b""
    for name, shape in shapes.items():
        values = [
            rng.uniform(-0.3, 0.3) if is_kept(weights, i % shape[-1]) else 0.0
            for i in range(math.prod(shape))
        ]
        begin = len(data)
        data += struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    (path / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def make_bundles(work: Path, rng: random.Random) -> list[Path]:
    """One bundle for each of MODELS."""
    bundles = []
    for number, (name, weights, extra) in enumerate(MODELS):
        source, bundle = work / f"source{number}", work / f"bundle{number}"
        config = {"architectures": [name], **SIZES, **extra}
        write_checkpoint(source, config, weights, rng)
        convert(source, bundle, weights)
        bundles.append(bundle)
    return bundles


def text_end(name: str, content: bytes | bytearray) -> int:
    """Where the JSON of a file ends: the safetensors header, or the whole file."""
    if name != WEIGHTS:
        return len(content)
    return min(len(content), 8 + int.from_bytes(content[:8], "little"))


def edit_bytes(content: bytearray, end: int, rng: random.Random) -> None:
    """Remove a few bytes of the text and put a piece of JSON, a mark or noise in their place."""
    begin = rng.randrange(end)
    piece = rng.choice((*PIECES, *MARKS, rng.randbytes(rng.randrange(1, 9))))
    content[begin : begin + rng.randrange(8)] = piece


def edit_number(content: bytearray, end: int, rng: random.Random) -> None:
    """Replace a number of the text by a neighbour, a multiple or a limit."""
    found = list(re.finditer(rb"-?\d+", bytes(content[:end])))
    if found:
        match = rng.choice(found)
        value = int(match[0][:20])
        near = (value + 1, value - 1, 2 * value, value // 2, value + 64, *NUMBERS)
        content[match.start() : match.end()] = str(rng.choice(near)).encode()


def edit_payload(content: bytearray, end: int, rng: random.Random) -> None:
    """Overwrite values behind the text with noise or with floats that are hard to bear."""
    if end + 4 < len(content):
        begin = rng.randrange(end, len(content) - 4) // 4 * 4
        noise = rng.randbytes(4 * rng.randrange(1, 17))
        value = struct.pack("<f", rng.choice(NOT_FINITE))
        content[begin : begin + len(noise)] = rng.choice((noise, value))


def cut(content: bytearray, end: int, rng: random.Random) -> None:
    """Let the file end early."""
    del content[rng.randrange(len(content)) :]


EDITS: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    edit_bytes,
    edit_number,
    edit_number,
    edit_payload,
    edit_payload,
    cut,
)


def broken(name: str, original: bytes, rng: random.Random) -> bytes:
    """The content of a file after one to three edits."""
    content = bytearray(original)
    for _ in range(rng.randrange(1, 4)):
        if content and (end := text_end(name, content)):
            rng.choice(EDITS)(content, end, rng)
    return bytes(content)


def run(bundle: Path, rng: random.Random) -> str:
    """Load, answer and score; "answered", or the name of the error's class."""
    sampling = SamplingParams(temperature=rng.choice((0.0, 1.0)), seed=rng.randrange(2**32))
    request = Request(messages=(Message("user", "会议 notes: x"),), max_tokens=3, sampling=sampling)
    try:
        with load_model(bundle, threads=rng.choice((1, 2))) as model:
            list(model.engine(max_tokens=3).stream(request))
            model.score([rng.randrange(model.config.vocab_size) for _ in range(20)])
            model.fingerprint()
    except AutoGLMError as err:
        return type(err).__name__
    return "answered"


def main() -> int:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", metavar="WORK", type=Path, help="an empty or new directory")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bundles = make_bundles(args.work, random.Random(args.seed))
    endings: Counter[str] = Counter()
    for trial in range(args.trials):
        rng = random.Random(f"{args.seed}/{trial}")
        bundle = args.work / "broken"
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(bundle)
        shutil.copytree(rng.choice(bundles), bundle)
        for path in rng.sample(sorted(bundle.iterdir()), rng.choice((1, 1, 1, 2))):
            path.write_bytes(broken(path.name, path.read_bytes(), rng))
        try:
            endings[run(bundle, rng)] += 1
        except Exception:
            sys.stderr.write(f"trial {trial} of seed {args.seed} failed; its bundle is {bundle}\n")
            raise
    sys.stdout.write(json.dumps(dict(endings.most_common())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
