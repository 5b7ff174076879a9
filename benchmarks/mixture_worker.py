"""Run one mixture model under a memory cap and print what it did as JSON; see moe_streaming.py.

Tokens are sampled at temperature 1, so that random weights do not fall into a loop.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path

from memory_cap import MemoryCap

MIB = 2**20


def main() -> int:
    """Join the group, then load and measure: everything the model touches counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="DIR", type=Path)
    parser.add_argument("--group", metavar="PATH", type=Path, help="control group to join")
    parser.add_argument("--expert-memory", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--warm-tokens", type=int, required=True)
    parser.add_argument("--gen-tokens", type=int, required=True)
    args = parser.parse_args()
    if args.group is not None:
        MemoryCap(args.group, 1).join()
    print(json.dumps(measure(args)))
    return 0


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Read a prompt, generate the tokens that warm the memory up, then the timed ones."""
    from autoglm.engine.native import NativeModel
    from autoglm.hardware.process import peak_rss_bytes
    from autoglm.modelfile.bundle import open_bundle
    from autoglm.types import SamplingParams

    rng = random.Random(0)
    bundle = open_bundle(args.model)
    model = NativeModel(
        bundle,
        pool_tokens=args.prompt_tokens + args.warm_tokens + args.gen_tokens + 1,
        threads=args.threads,
        has_prompt_lookup=False,
        expert_memory_mib=args.expert_memory,
    )
    session = model.session(SamplingParams(temperature=1.0, seed=1, ignore_eos=True))
    start = time.perf_counter()
    session.prefill([rng.randrange(bundle.config.vocab_size) for _ in range(args.prompt_tokens)])
    session.decode(1)
    prompt_s = time.perf_counter() - start
    session.decode(args.warm_tokens)
    before, read_before, faults_before = model.expert_stats(), _bytes_read(), _major_faults()
    start = time.perf_counter()
    session.decode(args.gen_tokens)
    decode_s = time.perf_counter() - start
    stats = model.expert_stats().since(before)
    return {
        "prompt_tokens_per_s": args.prompt_tokens / prompt_s,
        "decode_tokens_per_s": args.gen_tokens / decode_s,
        "read_mib_per_token": (_bytes_read() - read_before) / MIB / args.gen_tokens,
        "major_faults_per_token": (_major_faults() - faults_before) / args.gen_tokens,
        "hit_rate": stats.hit_rate,
        "foreseen_rate": stats.precision,
        "wait_share": stats.wait_s / decode_s,
        "num_slots": stats.num_slots,
        "expert_mib": stats.expert_bytes / MIB,
        "peak_rss_mib": (peak_rss_bytes() or 0) / MIB,
    }


def _bytes_read() -> int:
    """What this process has had read from storage, by reads and by page faults."""
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    return 0


def _major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


if __name__ == "__main__":
    sys.exit(main())
