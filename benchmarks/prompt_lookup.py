"""What drafts bring LITE, from the text so far or of a draft model: decode speed over that without.

Each prompt is answered with and without in turn, greedily, so both write the same tokens. `quoting`
is the median ratio over summaries of meetings, `new` the least over prompts without a text.
Usage: prompt_lookup.py [--draft-model DIR] [--threads T] [--rounds R] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
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


@dataclass(slots=True)
class Drafts:
    """How many tokens were drafted, and how many of them were right."""

    num_drafted: int = 0
    num_accepted: int = 0


def decode_seconds(model: NativeModel, ids: list[int], drafts: Drafts) -> tuple[float, list[int]]:
    """The time to write the answer, and the answer."""
    session = model.session(SamplingParams())
    session.prefill(ids)
    start = time.perf_counter()
    written = session.decode(MAX_TOKENS)
    seconds = time.perf_counter() - start
    drafts.num_drafted += session.num_drafted
    drafts.num_accepted += session.num_accepted
    return seconds, written


def ratio(
    plain: NativeModel, drafting: NativeModel, ids: list[int], rounds: int, drafts: Drafts
) -> float | None:
    """Median speed with drafts over that without; None for an answer too short to time."""
    seconds: dict[NativeModel, list[float]] = {plain: [], drafting: []}
    answers: list[list[int]] = []
    for _ in range(rounds):
        for model, times in seconds.items():
            taken, written = decode_seconds(model, ids, drafts)
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
    parser.add_argument("--draft-model", help="a bundle that drafts, instead of the text so far")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle = open_bundle(EMBEDDED_MODEL)
    draft = open_bundle(args.draft_model) if args.draft_model else None

    def load(*, has_drafts: bool) -> NativeModel:
        return NativeModel(
            bundle,
            pool_tokens=POOL_TOKENS,
            threads=args.threads,
            has_prompt_lookup=has_drafts and draft is None,
            draft=draft if has_drafts else None,
            precision=FAST,
        )

    plain, drafting = load(has_drafts=False), load(has_drafts=True)
    drafts = {kind: Drafts() for kind in ("quoting", "new")}
    ratios = {
        kind: [
            found
            for ids in some
            if (found := ratio(plain, drafting, ids, args.rounds, drafts[kind]))
        ]
        for kind, some in prompts(args.threads).items()
    }
    accepted = {kind: d.num_accepted / max(1, d.num_drafted) for kind, d in drafts.items()}
    drafted = {kind: d.num_drafted for kind, d in drafts.items()}
    report = {
        "quoting": median(ratios["quoting"]),
        "new": min(ratios["new"]),
        "ratios": ratios,
        "drafted": drafted,
        "accepted_share": accepted,
    }
    if args.json:
        print(json.dumps(report))
    else:
        print(f"quoting {report['quoting']:.2f}x, new text at least {report['new']:.2f}x")
        for kind, share in accepted.items():
            print(f"{kind}: {drafted[kind]} tokens drafted, {100 * share:.0f} % of them right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
