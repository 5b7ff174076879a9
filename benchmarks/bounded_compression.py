"""Compress a random checkpoint in the shape of GLM-4.5-Air, larger than memory, under a memory cap.

Prints size, time and peak memory. Both files lie under --work while it runs: 20 GB of bf16 with the
default of five layers, and 5.6 GB of the bundle. The cap counts the page cache too; it needs root.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from memory_cap import memory_cap
from random_checkpoint import TEMPLATE, byte_tokenizer
from random_mixture import shape

from autoglm.modelfile.arch import parse_architecture
from autoglm.modelfile.bundle import WEIGHTS_NAME
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.layout import source_tensors
from autoglm.modelfile.safetensors_writer import SafetensorsWriter, TensorSpec

GIB = 2**30
POOL_VALUES = 1 << 24
CHUNK_VALUES = 1 << 22
DEVIATION = 0.02


def write_checkpoint(directory: Path, layers: int, vocab: int) -> int:
    """Random weights in bf16, drawn from a pool; returns their bytes."""
    directory.mkdir(parents=True)
    config = shape(layers, vocab)
    arch = parse_architecture(Fields(config, "config.json"), "bf16")
    shapes = {
        rows.source: rows.source_shape for tensor in source_tensors(arch) for rows in tensor.pieces
    }
    rng = np.random.default_rng(0)
    values = rng.standard_normal(POOL_VALUES, np.float32) * np.float32(DEVIATION)
    pool = (values.view(np.uint32) >> 16).astype(np.uint16)
    specs = [TensorSpec(name, "BF16", dims) for name, dims in shapes.items()]
    with SafetensorsWriter(directory / WEIGHTS_NAME, specs) as writer:
        for name, dims in shapes.items():
            left = math.prod(dims)
            while left:
                count = min(left, CHUNK_VALUES)
                start = int(rng.integers(0, POOL_VALUES - count + 1))
                writer.append(name, pool[start : start + count].tobytes())
                left -= count
        writer.finish()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return writer.num_bytes


def compress_capped(source: Path, out: Path, recipe: str, cap_bytes: int) -> dict[str, float]:
    """Seconds, processor time and memory of one compression."""
    with memory_cap(cap_bytes) as cap:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        command = [sys.executable, "-m", "autoglm", "compress", str(source), "--recipe", recipe]
        subprocess.run([*command, "--out", str(out)], check=True, preexec_fn=cap.join)
        seconds = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = cap.peak_bytes()
    return {
        "seconds": seconds,
        "user_s": after.ru_utime - before.ru_utime,
        "system_s": after.ru_stime - before.ru_stime,
        "peak_rss_gib": after.ru_maxrss * 1024 / GIB,
        "peak_with_page_cache_gib": math.nan if peak is None else peak / GIB,
    }


def main() -> int:
    """Write, compress, measure, and remove both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", metavar="DIR", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--recipe", default="w4a8")
    parser.add_argument("--cap-gib", type=float, default=6.0)
    args = parser.parse_args()
    source, out = args.work / "source", args.work / "bundle"
    try:
        source_bytes = write_checkpoint(source, args.layers, args.vocab)
        figures = compress_capped(source, out, args.recipe, int(args.cap_gib * GIB))
        sizes = {
            "source_gib": source_bytes / GIB,
            "bundle_gib": (out / WEIGHTS_NAME).stat().st_size / GIB,
        }
        print(json.dumps({"recipe": args.recipe, "cap_gib": args.cap_gib, **sizes, **figures}))
    finally:
        for path in (source, out):
            shutil.rmtree(path, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
