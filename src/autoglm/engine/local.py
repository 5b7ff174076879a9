"""The engine of this device: prompt ids in, text out, over a token model.

Owns prompts, stop conditions and cancellation. Safe to use from several threads: their requests
share the passes over the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

from autoglm.engine.base import Constraint, TokenModel
from autoglm.engine.grammar import GrammarCompiler, is_available
from autoglm.engine.prompt import PromptBuilder
from autoglm.engine.scheduler import Batch, Scheduler
from autoglm.engine.stop import StopMatcher
from autoglm.engine.token_pool import TokenPool
from autoglm.engine.tokenizer import Detokenizer, Tokenizer
from autoglm.engine.tools import may_call, tool_grammar
from autoglm.errors import CancelledError, ContextOverflowError, InvalidRequestError
from autoglm.types import Cancellation, Chunk, FinishReason, Grammar, Logprob, Request, Usage


class LocalEngine:
    """Answers requests with a model on this device."""

    def __init__(
        self,
        model: TokenModel[Any],
        tokenizer: Tokenizer,
        prompts: PromptBuilder,
        *,
        eos_ids: tuple[int, ...],
        context_tokens: int,
        max_tokens: int,
        temperature: float = 0.0,
    ) -> None:
        """`max_tokens` is the length of an answer when the request gives none.

        `temperature` is what the model's makers advise.
        """
        self.temperature = temperature
        self._model = model
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._eos_ids = frozenset(eos_ids)
        self._context_tokens = context_tokens
        self._max_tokens = max_tokens
        self._pool = TokenPool(model.pool_tokens)
        self._scheduler = Scheduler(model)
        self._grammars = GrammarCompiler(tokenizer.to_json, eos_ids)
        self._restore: Callable[[Sequence[int]], int] | None = None

    def restore_by(self, restore: Callable[[Sequence[int]], int]) -> None:
        """Call this with the ids of every prompt before the prefix cache is asked for them."""
        self._restore = restore

    @property
    def context_tokens(self) -> int:
        """The window: prompt and answer together."""
        return self._context_tokens

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids of the whole prompt, however long."""
        if request.prompt is None:
            return self._prompts.encode(request)
        if isinstance(request.prompt, str):
            return self.token_ids(request.prompt)
        return list(request.prompt)

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a plain text."""
        return self._tokenizer.encode(text, has_controls=False)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of tokens, names of control tokens included. Raises InvalidRequestError."""
        return self._tokenizer.decode(ids, has_controls=True)

    def logprobs(
        self, ids: Sequence[int], num_top: int, cancellation: Cancellation
    ) -> list[Logprob]:
        """How likely each of ids[1:] was, beside the `num_top` likeliest in its place."""
        return self._model.logprobs(ids, num_top, cancellation)

    def embed(self, ids: Sequence[int], cancellation: Cancellation) -> list[float]:
        """The mean of the last hidden states of a text. Raises InvalidRequestError."""
        return self._model.embed(ids, cancellation)

    def num_tokens(self, text: str) -> int:
        """The number of tokens of a plain text."""
        return len(self.token_ids(text))

    def answer_tokens(self, request: Request) -> int:
        """The most tokens the answer may have."""
        return request.max_tokens or self._max_tokens

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Yield the answer; the first token comes alone, the next in small batches.

        A cancelled request ends with finish_reason "cancelled". Raises InvalidRequestError.
        """
        ids = self.prompt_ids(request)
        if not ids:
            message = "the prompt has no token that the model knows"
            raise InvalidRequestError(message)
        if len(ids) >= self._context_tokens:
            message = (
                f"the prompt has {len(ids)} tokens, the context window {self._context_tokens}; "
                "shorten the prompt or raise context_tokens"
            )
            raise ContextOverflowError(message)
        num_answer = min(self.answer_tokens(request), self._context_tokens - len(ids))
        eos_ids = frozenset[int]() if request.sampling.ignore_eos else self._eos_ids
        answer = _Answer(self._tokenizer, request, eos_ids)
        num_reserved = self._model.held_tokens(len(ids) + num_answer)
        try:
            with self._pool.reserved(num_reserved, request.cancellation):
                finish = yield from self._decode(request, ids, num_answer, answer)
        except CancelledError:
            finish = "cancelled"
        usage = Usage(len(ids), answer.num_tokens, answer.num_cached)
        yield Chunk(answer.flush(), finish_reason=finish, usage=usage)

    def _decode(
        self, request: Request, ids: list[int], num_tokens: int, answer: _Answer
    ) -> Generator[Chunk, None, FinishReason]:
        """The chunks of the answer; the session and its part of the cache end with it."""
        constraint = self._constraint(request, num_tokens)
        session = self._model.session(request.sampling)
        if constraint is not None:
            session.keep_to(constraint)
        with request.cancellation.attached(session.cancel):
            if self._restore is not None:
                self._restore(ids)
            answer.num_cached = session.append(ids)
            work = self._scheduler.run(session, num_tokens, has_form=constraint is not None)
            with closing(work) as batches:
                for batch in batches:
                    if request.cancellation.is_cancelled:
                        return "cancelled"
                    yield answer.push(batch)
                    if answer.is_finished or batch.is_ended:
                        return "stop"
        return "length"

    def _constraint(self, request: Request, num_tokens: int) -> Constraint | None:
        """What keeps the answer to its form."""
        grammar = request.grammar
        if may_call(request):
            grammar = self._tool_grammar(request)
        if request.schema is not None and is_available():
            grammar = Grammar("schema", json.dumps(request.schema))
        if grammar is None:
            return None
        # Nothing is known of how likely a forced token was.
        may_force = request.sampling.num_logprobs is None
        return self._grammars.start(grammar, num_tokens, may_force=may_force)

    def _tool_grammar(self, request: Request) -> Grammar:
        """What keeps calls in the model's own form."""
        named = tuple(tool for tool in request.tools if tool.name == request.tool_choice)
        return tool_grammar(
            self._prompts.tool_form,
            named or request.tools,
            must_call=request.tool_choice != "auto",
            is_parallel=request.is_parallel and not named,
            is_control=self._tokenizer.is_control_name,
        )


class _Answer:
    """Turns batches of token ids into the text of the answer so far."""

    def __init__(self, tokenizer: Tokenizer, request: Request, eos_ids: frozenset[int]) -> None:
        # Words that open a call may be control tokens.
        self._detokenizer = Detokenizer(tokenizer, has_controls=may_call(request))
        self._matcher = StopMatcher(request.stop)
        self._eos_ids = eos_ids
        self._has_begun = request.prompt is not None
        self.num_tokens = 0
        self.num_cached = 0
        self.is_finished = False

    def push(self, batch: Batch) -> Chunk:
        """The certain text and the ids that count; sets `is_finished` at an end token or string."""
        text = ""
        used: list[int] = []
        logprobs: list[Logprob] = []
        for number, token in enumerate(batch.ids):
            self.num_tokens += 1
            if token in self._eos_ids:
                self.is_finished = True
                break
            used.append(token)
            logprobs += batch.logprobs[number : number + 1]
            text += self._matcher.push(self._detokenizer.push(token))
            if self._matcher.is_stopped:
                self.is_finished = True
                break
        return Chunk(self._without_leading_space(text), tuple(used), tuple(logprobs))

    def flush(self) -> str:
        """The text that was held back."""
        if self._matcher.is_stopped:
            return ""
        text = self._matcher.push(self._detokenizer.flush())
        return self._without_leading_space(text + self._matcher.flush())

    def _without_leading_space(self, text: str) -> str:
        """Chat templates leave the line break after the role to the model."""
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        return text
