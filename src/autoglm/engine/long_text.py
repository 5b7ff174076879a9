"""Answers about texts longer than the window: in parts, then one answer over the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from autoglm.engine.base import WindowedEngine
from autoglm.engine.split import MAX_CHARS_PER_TOKEN, split_text
from autoglm.errors import ContextOverflowError
from autoglm.types import Chunk, Request, Usage

# Tokens may form across the joint of instruction and text.
JOINT_TOKENS = 8
MIN_PART_TOKENS = 32


def text_parts(engine: WindowedEngine, request: Request) -> list[str]:
    """The request's text as one part if it fits the window with room to answer, else as several.

    Raises ContextOverflowError when the instruction alone leaves too little room.
    """
    if request.text is None:
        return []
    window = engine.context_tokens
    num_reserved = min(engine.answer_tokens(request), window // 4)
    is_short = len(request.text) <= window * MAX_CHARS_PER_TOKEN
    if is_short and len(engine.prompt_ids(request)) + num_reserved <= window:
        return [request.text]
    num_instruction = len(engine.prompt_ids(replace(request, text="")))
    budget = window - num_instruction - num_reserved - JOINT_TOKENS
    if budget < MIN_PART_TOKENS:
        message = (
            f"the instruction has {num_instruction} tokens and leaves no room for the text in a "
            f"context window of {window}; shorten it or raise context_tokens"
        )
        raise ContextOverflowError(message)
    return split_text(request.text, budget, engine.num_tokens)


def stream_parts(engine: WindowedEngine, request: Request, parts: Sequence[str]) -> Iterator[Chunk]:
    """Answer every part, then stream the answer over the joined answers; usage is the sum.

    The joined answers may be too long themselves and are then read in parts again. A part's
    answer is limited so that every round at least halves the text. While parts are answered the
    chunks have token ids and no text.
    """
    usage = Usage(0, 0)
    answers: list[str] = []
    for part in parts:
        limit = max(1, min(engine.answer_tokens(request), engine.num_tokens(part) // 3))
        answer = ""
        for chunk in engine.stream(replace(request, text=part, max_tokens=limit)):
            answer += chunk.text
            usage += chunk.usage or Usage(0, 0)
            if chunk.finish_reason == "cancelled":
                yield Chunk("", finish_reason="cancelled", usage=usage)
                return
            yield Chunk("", chunk.token_ids)
        answers.append(answer.strip())
    merged = replace(request, text="\n".join(answers))
    parts = text_parts(engine, merged)
    rounds = engine.stream(merged) if len(parts) == 1 else stream_parts(engine, merged, parts)
    for chunk in rounds:
        if chunk.usage is not None:
            chunk = replace(chunk, usage=usage + chunk.usage)
        yield chunk
