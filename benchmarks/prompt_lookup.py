"""What drafts from the text so far bring LITE: decode speed with them over that without.

Each prompt is answered with and without in turn, greedily, so both write the same tokens. `quoting`
is the median ratio over summaries of meetings, `new` the least over prompts without a text.
Usage: prompt_lookup.py [--threads T] [--rounds R] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

from autoglm.config import FAST
from autoglm.engine.model import EMBEDDED_MODEL, load_model
from autoglm.engine.native import NativeModel
from autoglm.modelfile.bundle import open_bundle
from autoglm.types import Message, Request, SamplingParams

EXAMPLES = Path(__file__).parents[1] / "examples"
QUOTING = (
    ("请总结以下会议记录要点", "meeting_zh.txt"),
    ("请逐条列出会议中的决定和负责人", "meeting_zh.txt"),
    ("Summarise the key points of this meeting", "meeting_en.txt"),
    ("List the decisions of this meeting and who does what", "meeting_en.txt"),
)
NEW = (
    "写一个关于大海的短故事",
    "介绍一下你自己",
    "Tell me a story about a lighthouse",
    "What is rain?",
)
MAX_TOKENS, MIN_TOKENS = 160, 16
POOL_TOKENS = 4096


def prompts(threads: int) -> dict[str, list[list[int]]]:
    """Token ids of every prompt, by kind."""
    with load_model(None, threads=threads) as model:
        engine = model.engine(max_tokens=MAX_TOKENS)

        def ids(prompt: str, text: str | None) -> list[int]:
            messages = (Message("user", prompt),)
            return engine.prompt_ids(Request(messages=messages, text=text, max_tokens=MAX_TOKENS))

        texts = {name: (EXAMPLES / name).read_text(encoding="utf-8") for _, name in QUOTING}
        return {
            "quoting": [ids(prompt, texts[name]) for prompt, name in QUOTING],
            "new": [ids(prompt, None) for prompt in NEW],
        }


def decode_seconds(model: NativeModel, ids: list[int]) -> tuple[float, list[int]]:
    """The time to write the answer, and the answer."""
    session = model.session(SamplingParams())
    session.prefill(ids)
    start = time.perf_counter()
    written = session.decode(MAX_TOKENS)
    return time.perf_counter() - start, written


def ratio(plain: NativeModel, drafting: NativeModel, ids: list[int], rounds: int) -> float | None:
    """Median speed with drafts over that without; None for an answer too short to time."""
    seconds: dict[NativeModel, list[float]] = {plain: [], drafting: []}
    answers: list[list[int]] = []
    for _ in range(rounds):
        for model, times in seconds.items():
            taken, written = decode_seconds(model, ids)
            times.append(taken)
            answers.append(written)
    if any(written != answers[0] for written in answers):
        message = "drafts changed the answer"
        raise RuntimeError(message)
    if len(answers[0]) < MIN_TOKENS:
        return None
    return median(seconds[plain]) / median(seconds[drafting])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle = open_bundle(EMBEDDED_MODEL)
    plain, drafting = (
        NativeModel(
            bundle,
            pool_tokens=POOL_TOKENS,
            threads=args.threads,
            has_prompt_lookup=has_lookup,
            precision=FAST,
        )
        for has_lookup in (False, True)
    )
    ratios = {
        kind: [found for ids in some if (found := ratio(plain, drafting, ids, args.rounds))]
        for kind, some in prompts(args.threads).items()
    }
    report = {"quoting": median(ratios["quoting"]), "new": min(ratios["new"]), "ratios": ratios}
    if args.json:
        print(json.dumps(report))
    else:
        print(f"quoting {report['quoting']:.2f}x, new text at least {report['new']:.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
