"""Answers of a given form: which tokens may come next, by llguidance.

Grammars are compiled in the thread of their request and bounded before. Most tokens are drawn
freely and only looked at; masks that take long are computed in a thread of their own.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from autoglm.engine.base import ALLOWED, BOUND, FAILED, FORCED, LAST
from autoglm.engine.tools import VALUE_CLOSE
from autoglm.errors import GrammarError, require
from autoglm.types import Grammar, GrammarKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

EXTRA = "grammar"
MAX_SOURCE_CHARS = 200_000
MAX_REPETITION = 2000
MAX_GROUPS = 1000
MAX_DEPTH = 100
MAX_REMEMBERED = 32
# An answer that has so many tokens left is led to its end, where it has a choice; free text is not.
CLOSING_TOKENS = {"schema": 256, "tools": 256, "regex": 32, "choice": 32, "lark": 32, "mixed": 0}
# A mask that takes no longer is computed at once: another thread would cost more.
QUICK_MASK_S = 0.0002
# Others do not wait longer for the mask of one sequence.
MASK_PATIENCE_S = 0.02
# One form for all, so that a model cannot lose itself in white space.
JSON_STYLE: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
_REPETITION = re.compile(r"\{\s*([0-9]*)\s*,?\s*([0-9]*)\s*\}")
_COUNTS = frozenset(
    ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
)
_CLOSERS = ("]", "}", ",", '"')
# What ends a part of a text of some format where no closer may come: times, addresses, fractions.
_LAST_PARTS = ("Z", "@", ":", "/", "x", ".", "1", "D", "S", "0", "T")
_LETTERS = ("x", "q")
# A closer that came so often in a row is part of a text.
MAX_SAME_CLOSER = 8


class Constraint:
    """The state of one answer, see autoglm.engine.base. Passes ask it, one at a time."""

    def __init__(
        self,
        matcher: LLMatcher,
        closers: _Closers,
        worker: ThreadPoolExecutor,
        *,
        num_tokens: int,
        kind: GrammarKind,
        may_force: bool,
    ) -> None:
        """At most `num_tokens` come; with `may_force` those that can only be one follow unasked."""
        self._matcher = matcher
        self._closers = closers
        self._worker = worker
        self._num_left = num_tokens
        self._may_force = may_force
        self._closing_at = min(CLOSING_TOKENS[kind], num_tokens // 2)
        self._way_out: Sequence[int] = closers.way_out if kind == "tools" else ()
        self._script: list[int] = []
        self._closer, self._num_same = -1, 0
        self._used_parts: list[int] = []
        self._forced: list[int] = []
        self._usual_s = 0.0
        self._mask: Future[bytes] | bytes | None = worker.submit(self._compute)

    def take(self, token: int) -> int:
        """Take a token if it may come, and with it what must follow."""
        matcher = self._matcher
        # Models may have more rows than their tokenizer has tokens.
        if token >= self._closers.vocab_size or not matcher.try_consume_tokens([token]):
            return FAILED if matcher.is_error() else 0
        self._num_left -= 1
        self._mask = None
        if self._may_force and (forced := matcher.compute_ff_tokens()):
            return self._take_forced(forced)
        return self._state()

    def forced(self) -> list[int]:
        """What followed the last token."""
        return self._forced

    def mask(self) -> bytes | None:
        """A bit for every token that may come next; None while it takes too long, b"" for ever."""
        if self._mask is None:
            self._ask_for_mask()
        if isinstance(self._mask, Future):
            try:
                self._mask = self._mask.result(MASK_PATIENCE_S)
            except TimeoutError:
                return None
        return self._mask

    def _take_forced(self, forced: list[int]) -> int:
        """Those that fit. Only the answer's bound leaves any out, and then nothing follows."""
        self._forced = forced[: self._num_left]
        if not self._matcher.consume_tokens(self._forced):
            return FAILED
        self._num_left -= len(self._forced)
        return self._state() | (FORCED if self._forced else 0)

    def _state(self) -> int:
        """What may come after the tokens so far."""
        if self._matcher.is_stopped():
            return FAILED if self._matcher.is_error() else ALLOWED | LAST
        if self._num_left > self._closing_at:
            return ALLOWED
        if self._usual_s >= QUICK_MASK_S:
            self._ask_for_mask()
        return ALLOWED | BOUND

    def _ask_for_mask(self) -> None:
        is_quick = self._usual_s < QUICK_MASK_S
        self._mask = self._compute() if is_quick else self._worker.submit(self._compute)

    def _compute(self) -> bytes:
        start = time.perf_counter()
        mask = self._matcher.compute_bitmask()
        self._usual_s = (self._usual_s + time.perf_counter() - start) / 2
        return b"" if self._matcher.is_error() else self._led(mask)

    def _led(self, mask: bytes) -> bytes:
        """The mask, or when the answer nears its bound what leads it to its end."""
        if self._num_left > self._closing_at:
            return mask
        if not self._script and self._closers.is_free_text(mask):
            self._script = list(self._way_out)
        if self._script:
            return _only(self._script.pop(0), len(mask))
        return self._narrowed(mask)

    def _narrowed(self, mask: bytes) -> bytes:
        """Only what ends the text soonest."""
        useless = self._closer if self._num_same >= MAX_SAME_CLOSER else -1
        token = self._closers.best(mask, useless)
        if token is None:
            allowed = [one for one in self._closers.last_parts if _has(mask, one)]
            token = min(allowed, key=self._used_parts.count, default=None)
            if token is None:
                return mask
            self._used_parts.append(token)
        self._num_same = self._num_same + 1 if token == self._closer else 1
        self._closer = token
        return _only(token, len(mask))


class _Closers:
    """Tokens that bring a JSON text to its end."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.vocab_size = tokenizer.vocab_size
        self._ends: Sequence[int] = tokenizer.eos_tokens
        self._closers = _single_tokens(tokenizer, _CLOSERS)
        self.last_parts = _single_tokens(tokenizer, _LAST_PARTS)
        self._letters = _single_tokens(tokenizer, _LETTERS)
        self._newlines = _single_tokens(tokenizer, ("\n",))
        # Of the texts that GLM writes between tags.
        self.way_out: Sequence[int] = tokenizer.tokenize_str(VALUE_CLOSE)

    def is_free_text(self, mask: bytes) -> bool:
        """Whether anything may be written, as no JSON allows."""
        return bool(self._newlines) and all(
            _has(mask, token) for token in (*self._letters, *self._newlines)
        )

    def best(self, mask: bytes, useless: int) -> int | None:
        """What ends the text soonest, None when no such word may come."""
        closers = self._closers
        if self._letters and all(_has(mask, token) for token in self._letters):
            closers = closers[::-1]  # inside a string: its end comes first
        tokens = (*self._ends, *closers)
        return next((token for token in tokens if token != useless and _has(mask, token)), None)


class GrammarCompiler:
    """Makes constraints for one model. Safe to use from several threads."""

    def __init__(self, tokenizer_json: Callable[[], str], eos_ids: Sequence[int]) -> None:
        """The library is loaded when it is first needed."""
        self._tokenizer_json = tokenizer_json
        self._eos_ids = list(eos_ids)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._closers: _Closers | None = None
        self._matchers: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="autoglm-masks")

    def start(self, grammar: Grammar, num_tokens: int, *, may_force: bool) -> Constraint:
        """The state of a new answer of at most `num_tokens`, see Constraint.

        Raises GrammarError for a grammar that cannot be used, MissingExtraError.
        """
        check_grammar(grammar)
        with self._lock:
            tokenizer, closers = self._opened()
            matcher = self._matchers.get(grammar)
        if matcher is None:
            matcher = _compiled(grammar, tokenizer)
        with self._lock:
            self._matchers[grammar] = matcher
            self._matchers.move_to_end(grammar)
            while len(self._matchers) > MAX_REMEMBERED:
                self._matchers.popitem(last=False)
            matcher = matcher.deep_copy()
        return Constraint(
            matcher,
            closers,
            self._worker,
            num_tokens=num_tokens,
            kind=grammar.kind,
            may_force=may_force,
        )

    def _opened(self) -> tuple[LLTokenizer, _Closers]:
        if self._tokenizer is None or self._closers is None:
            library: Any = require("llguidance", extra=EXTRA)
            self._tokenizer = library.LLTokenizer(self._tokenizer_json(), eos_token=self._eos_ids)
            self._closers = _Closers(self._tokenizer)
        return self._tokenizer, self._closers


def is_available() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("llguidance") is not None


def check_grammar(grammar: Grammar) -> None:
    """Raise GrammarError for a grammar beyond the bounds."""
    if len(grammar.source) > MAX_SOURCE_CHARS:
        message = f"the {grammar.kind} has more than {MAX_SOURCE_CHARS} characters"
        raise GrammarError(message)
    if grammar.kind == "schema":
        _check_schema(json.loads(grammar.source), 0)
    elif grammar.kind in ("regex", "lark"):
        _check_regex(grammar.source)


def _check_schema(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        message = f"the schema is nested deeper than {MAX_DEPTH} levels"
        raise GrammarError(message)
    if isinstance(value, list):
        for item in value:
            _check_schema(item, depth + 1)
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if name in _COUNTS and isinstance(inner, int | float) and inner > MAX_REPETITION:
            message = f"{name} of the schema is {inner}; expected at most {MAX_REPETITION}"
            raise GrammarError(message)
        if name == "pattern" and isinstance(inner, str):
            _check_regex(inner)
        _check_schema(inner, depth + 1)


def _check_regex(source: str) -> None:
    if source.count("(") + source.count("[") + source.count("|") > MAX_GROUPS:
        message = f"the grammar has more than {MAX_GROUPS} groups"
        raise GrammarError(message)
    for numbers in _REPETITION.findall(source):
        if any(number and (len(number) > 9 or int(number) > MAX_REPETITION) for number in numbers):
            message = f"the grammar repeats more often than {MAX_REPETITION} times"
            raise GrammarError(message)


def _compiled(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    from llguidance import LLMatcher

    try:
        if grammar.kind == "schema":
            source = LLMatcher.grammar_from_json_schema(grammar.source, overrides=JSON_STYLE)
        elif grammar.kind == "regex":
            source = LLMatcher.grammar_from_regex(grammar.source)
        else:
            source = LLMatcher.grammar_from_lark(_lark(grammar))
        matcher = LLMatcher(tokenizer, source, log_level=0)
    except ValueError as err:
        message = f"the {grammar.kind} cannot be used: {str(err)[:200]}"
        raise GrammarError(message) from err
    if matcher.is_error():
        message = f"the {grammar.kind} cannot be used: {matcher.get_error()[:200]}"
        raise GrammarError(message)
    return matcher


def _lark(grammar: Grammar) -> str:
    if grammar.kind != "choice":
        return grammar.source
    texts = json.loads(grammar.source)
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)


def _single_tokens(tokenizer: LLTokenizer, texts: Sequence[str]) -> list[int]:
    ids = [tokenizer.greedy_tokenize(text) for text in texts]
    return [tokens[0] for tokens in ids if len(tokens) == 1]


def _has(mask: bytes, token: int) -> bool:
    return token // 8 < len(mask) and mask[token // 8] >> token % 8 & 1 == 1


def _only(token: int, num_bytes: int) -> bytes:
    mask = bytearray(num_bytes)
    mask[token // 8] = 1 << token % 8
    return bytes(mask)
