"""Latency of many requests in one process, and texts whose prompt has a given number of tokens.

Usage: many_requests.py --prompt-tokens P [--new-tokens N --requests R | --print-text]
Prints one JSON document, or with --print-text the text for PROMPT.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from autoglm.config import load_settings
from autoglm.engine.local import LocalEngine
from autoglm.engine.model import load_model
from autoglm.types import Message, Request, SamplingParams

PROMPT = "请总结以下会议记录要点"
MEETING = Path(__file__).parents[1] / "examples" / "meeting_zh.txt"


def request(text: str, new_tokens: int) -> Request:
    """A request for exactly `new_tokens` tokens about `text`."""
    return Request(
        messages=(Message("user", PROMPT),),
        text=text,
        max_tokens=new_tokens,
        sampling=SamplingParams(ignore_eos=True),
    )


def text_of(engine: LocalEngine, prompt_tokens: int, number: int) -> str:
    """A text, different for each number, that makes a prompt of at most `prompt_tokens` tokens.

    It begins with the number, so that no cache holds more than the instruction before it.
    """
    meeting = MEETING.read_text(encoding="utf-8")
    source = f"{number}. " + meeting * (1 + 8 * prompt_tokens // len(meeting))
    low, high = 1, len(source)
    while low < high:
        middle = (low + high + 1) // 2
        is_short = len(engine.prompt_ids(request(source[:middle], 1))) <= prompt_tokens
        low, high = (middle, high) if is_short else (low, middle - 1)
    return source[:low]


def main() -> int:
    """Measure, or print a text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--print-text", action="store_true")
    args = parser.parse_args()
    settings = load_settings()
    with load_model(settings.model, threads=args.threads, precision=settings.precision) as model:
        engine = model.engine(max_tokens=args.new_tokens)
        if args.print_text:
            print(text_of(engine, args.prompt_tokens, 0), end="")
            return 0
        texts = [text_of(engine, args.prompt_tokens, n) for n in range(args.requests + 1)]
        latencies, prompts = [], []
        for text in texts:
            start = time.perf_counter()
            *_, last = engine.stream(request(text, args.new_tokens))
            latencies.append(1e3 * (time.perf_counter() - start))
            prompts.append(last.usage.prompt_tokens if last.usage else 0)
        del latencies[0]  # pages the weights in
    latencies.sort()
    report = {
        "p50_ms": statistics.median(latencies),
        "p95_ms": latencies[max(0, -(-95 * len(latencies) // 100) - 1)],
        "min_ms": latencies[0],
        "max_ms": latencies[-1],
        "requests": len(latencies),
        "prompt_tokens": statistics.median(prompts),
        "new_tokens": args.new_tokens,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
