"""The fields that requests of all kinds share: sampling, stop strings, limits, time."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from autoglm.engine.actions import named_grammar
from autoglm.engine.grammar import EXTRA, check_grammar, is_available
from autoglm.errors import GrammarError
from autoglm.serve.errors import FieldError, MissingPartError
from autoglm.serve.fields import Fields
from autoglm.types import (
    MAX_LOGPROBS,
    MAX_SEED,
    MAX_STOP_STRINGS,
    MAX_TOKENS,
    Grammar,
    GrammarKind,
    SamplingParams,
)

MAX_ANSWERS = 8
MAX_BIASED = 1024
MAX_STOP_CHARS = 1000
MAX_TIMEOUT_S = 86_400.0
MAX_PRIORITY = 1000
MAX_CHOICES = 256
ANY_OBJECT = Grammar("schema", '{"type": "object"}')


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a request wants its answers; `temperature` None leaves it to the service."""

    temperature: float | None
    sampling: SamplingParams
    stop: tuple[str, ...]
    grammar: Grammar | None
    form_field: str  # that brought the grammar
    max_tokens: int | None
    num_answers: int
    is_streamed: bool
    has_usage: bool
    priority: int
    timeout_s: float | None

    def samplings(self, default_temperature: float) -> list[SamplingParams]:
        """One for each answer: with a seed each has a seed of its own."""
        temperature = default_temperature if self.temperature is None else self.temperature
        base = replace(self.sampling, temperature=temperature)
        if base.seed is None:
            return [base] * self.num_answers
        seeds = [(base.seed + number) % (MAX_SEED + 1) for number in range(self.num_answers)]
        return [replace(base, seed=seed) for seed in seeds]


def read_wishes(body: Fields, timeout: str | None, num_logprobs: int | None) -> Wishes:
    """From a body and the header X-Request-Timeout. Raises FieldError."""
    stream_options = body.inner("stream_options")
    return Wishes(
        temperature=body.number("temperature", 0, 100),
        sampling=read_sampling(body, num_logprobs),
        stop=read_stop(body),
        grammar=read_grammar(body),
        form_field=_form_field(body),
        max_tokens=read_max_tokens(body),
        num_answers=body.integer("n", 1, MAX_ANSWERS) or 1,
        is_streamed=body.boolean("stream"),
        has_usage=stream_options is not None and stream_options.boolean("include_usage"),
        priority=body.integer("priority", -MAX_PRIORITY, MAX_PRIORITY) or 0,
        timeout_s=read_timeout(body, timeout),
    )


def read_sampling(body: Fields, num_logprobs: int | None) -> SamplingParams:
    """Everything but the temperature."""
    top_p = body.number("top_p", 0, 1)
    top_k = body.integer("top_k", -1, 2**31 - 1)
    seed = body.integer("seed", -(2**63), MAX_SEED)
    return SamplingParams(
        top_k=None if top_k is None else max(top_k, 0),
        top_p=None if top_p is None else max(top_p, 1e-9),
        min_p=body.number("min_p", 0, 1),
        repetition_penalty=body.number("repetition_penalty", 1e-3, 1e3),
        presence_penalty=body.number("presence_penalty", -2, 2) or 0.0,
        frequency_penalty=body.number("frequency_penalty", -2, 2) or 0.0,
        seed=None if seed is None else seed % (MAX_SEED + 1),
        logit_bias=read_bias(body),
        ignore_eos=body.boolean("ignore_eos"),
        num_logprobs=num_logprobs,
    )


def read_bias(body: Fields) -> dict[int, float]:
    """A mapping of token ids, which are strings in JSON, to numbers."""
    inner = body.inner("logit_bias")
    if inner is None:
        return {}
    if len(inner.values) > MAX_BIASED:
        body.fail("logit_bias", f"at most {MAX_BIASED} tokens")
    bias: dict[int, float] = {}
    for name in inner.values:
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            message = f"logit_bias has the key {name[:20]!r}; expected token ids"
            raise FieldError(message, field="logit_bias")
        value = inner.number(name, -100, 100)
        if value is not None:
            bias[int(name)] = value
    return bias


def read_stop(body: Fields, name: str = "stop") -> tuple[str, ...]:
    """Strings before which an answer ends."""
    stop = body.texts(name, MAX_STOP_STRINGS)
    if not all(0 < len(text) <= MAX_STOP_CHARS for text in stop):
        body.fail(name, f"strings of 1 to {MAX_STOP_CHARS} characters")
    return stop


def read_max_tokens(body: Fields) -> int | None:
    """`max_completion_tokens`, or its older name."""
    newer = body.integer("max_completion_tokens", 1, MAX_TOKENS)
    return body.integer("max_tokens", 1, MAX_TOKENS) if newer is None else newer


def read_timeout(body: Fields, header: str | None) -> float | None:
    """The body's `timeout` or the header, in seconds."""
    if header is None:
        return body.number("timeout", 0.001, MAX_TIMEOUT_S)
    try:
        seconds = float(header)
    except ValueError:
        seconds = -1.0
    if not 0.001 <= seconds <= MAX_TIMEOUT_S:
        message = f"X-Request-Timeout is {header[:20]!r}; expected seconds, at most {MAX_TIMEOUT_S}"
        raise FieldError(message, field="X-Request-Timeout")
    return seconds


def read_grammar(body: Fields) -> Grammar | None:
    """The form an answer must have: `response_format`, or one of vLLM's `guided_` fields."""
    wanted = [
        grammar
        for grammar in (
            _response_format(body),
            schema_grammar(body, "guided_json"),
            _guided(body, "guided_regex", "regex"),
            _guided_grammar(body),
            _guided_choice(body),
        )
        if grammar is not None
    ]
    if len(wanted) > 1:
        body.fail("response_format", "one form, not several")
    if wanted:
        check_forms_work(_form_field(body))
    return wanted[0] if wanted else None


def _form_field(body: Fields) -> str:
    forms = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
    return body.path(next((name for name in forms if body.has(name)), "response_format"))


def check_forms_work(field: str) -> None:
    """Raise MissingPartError when answers cannot be bound to a form as `field` wants."""
    if not is_available():
        raise MissingPartError(field, EXTRA)


def _response_format(body: Fields) -> Grammar | None:
    form = body.inner("response_format")
    if form is None:
        return None
    match form.choice("type", ("text", "json_object", "json_schema"), "text"):
        case "json_object":
            return ANY_OBJECT
        case "json_schema":
            inner = form.inner("json_schema")
            grammar = None if inner is None else schema_grammar(inner, "schema")
            if grammar is None:
                form.fail("json_schema", "an object with a schema")
            return grammar
    return None


def schema_grammar(body: Fields, name: str) -> Grammar | None:
    """A JSON schema, as an object or as its text."""
    value = body.values.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            body.fail(name, "a JSON schema")
    if not isinstance(value, dict | bool):
        body.fail(name, "a JSON schema")
    return _checked(body, name, Grammar("schema", json.dumps(value)))


def _guided(body: Fields, name: str, kind: GrammarKind) -> Grammar | None:
    return _checked(body, name, Grammar(kind, body.text(name))) if body.has(name) else None


def _guided_grammar(body: Fields) -> Grammar | None:
    """A grammar, or the name of one that is known."""
    if not body.has("guided_grammar"):
        return None
    return named_grammar(body.text("guided_grammar")) or _guided(body, "guided_grammar", "lark")


def _guided_choice(body: Fields) -> Grammar | None:
    texts = body.texts("guided_choice", MAX_CHOICES)
    if not all(texts):
        body.fail("guided_choice", "texts that are not empty")
    return Grammar("choice", json.dumps(texts)) if texts else None


def _checked(body: Fields, name: str, grammar: Grammar) -> Grammar:
    """Bounds are checked before a request waits, so that the field can be named."""
    try:
        check_grammar(grammar)
    except GrammarError as err:
        raise FieldError(str(err), field=body.path(name)) from err
    return grammar


def read_top_logprobs(body: Fields) -> int | None:
    """How many likeliest tokens a chat wants beside each token; None: no log probabilities."""
    num_top = body.integer("top_logprobs", 0, MAX_LOGPROBS)
    if not body.boolean("logprobs"):
        if num_top:
            body.fail("logprobs", "true, when top_logprobs is given")
        return None
    return num_top or 0
