"""An answer that was found in the text, kept to the limits of its request like a written one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoglm.engine.answer_cache import Answer
from autoglm.engine.stop import StopMatcher
from autoglm.types import Usage

if TYPE_CHECKING:
    from autoglm.engine.base import WindowedEngine
    from autoglm.types import FinishReason, Request

_BROKEN = "\ufffd"  # what the first bytes of a character decode to


def extracted(engine: WindowedEngine, request: Request, text: str) -> Answer:
    """Cut at stop strings and at the most tokens; the usage counts what a model would have read."""
    matcher = StopMatcher(request.stop)
    text = matcher.push(text) + matcher.flush()
    finish: FinishReason = "stop"
    ids = engine.token_ids(text)
    limit = engine.answer_tokens(request)
    if len(ids) > limit:
        ids = ids[:limit]
        text = engine.text_of(ids).rstrip(_BROKEN)
        finish = "length"
    usage = Usage(len(engine.prompt_ids(request)), len(ids))
    return Answer(text, finish, usage, 1, is_extracted=True)
