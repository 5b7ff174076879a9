"""The values that travel between layers: requests, chunks, results. They validate themselves."""

from __future__ import annotations

import enum
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from autoglm.errors import InvalidRequestError

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]

MAX_STOP_STRINGS = 16
MAX_SEED = 2**64 - 1
MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**31 - 1
MAX_BIAS = 1e4
MAX_LOGPROBS = 20


class ModelSize(enum.Enum):
    """The models that come with the package."""

    LITE = "lite"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made; `arguments` is the text of a JSON object."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call; `parameters` is the text of its arguments' JSON schema."""

    name: str
    description: str
    parameters: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; a "tool" message is the result of a call."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


def check_type(name: str, value: object, wanted: type, expected: str) -> None:
    """Raise InvalidRequestError, which does not show the value: it may be the user's text."""
    if not isinstance(value, wanted):
        message = f"{name} is of type {type(value).__name__}; expected {expected}"
        raise InvalidRequestError(message)


def _check(name: str, value: object, low: float, high: float, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        message = f"{name} is {value!r}; expected {expected}"
        raise InvalidRequestError(message)


def _check_int(name: str, value: int, low: int, expected: str, high: float = math.inf) -> None:
    if type(value) is not int or not low <= value <= high:
        message = f"{name} is {value!r}; expected {expected}"
        raise InvalidRequestError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen; greedy unless a temperature is given.

    None means the model's own default. `seed` None means a fresh seed per request; it has no
    effect at temperature 0. With `num_logprobs` chunks say how likely each token was, beside so
    many of the likeliest. Raises InvalidRequestError.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    ignore_eos: bool = False
    num_logprobs: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, 100, "a number from 0 to 100")
        if self.top_k is not None:
            _check_int("top_k", self.top_k, 0, "a whole number, 0 for all tokens", 2**31 - 1)
        if self.top_p is not None:
            _check("top_p", self.top_p, 1e-9, 1, "a number above 0, at most 1")
        if self.min_p is not None:
            _check("min_p", self.min_p, 0, 1, "a number from 0 to 1")
        if self.repetition_penalty is not None:
            _check("repetition_penalty", self.repetition_penalty, 1e-3, 1e3, "0.001 to 1000")
        _check("presence_penalty", self.presence_penalty, -100, 100, "-100 to 100")
        _check("frequency_penalty", self.frequency_penalty, -100, 100, "-100 to 100")
        if self.seed is not None:
            _check_int("seed", self.seed, 0, "a whole number from 0 to 2**64-1", MAX_SEED)
        if self.num_logprobs is not None:
            _check_int("num_logprobs", self.num_logprobs, 0, "0 to 20", MAX_LOGPROBS)
        check_type("ignore_eos", self.ignore_eos, bool, "true or false")
        check_type("logit_bias", self.logit_bias, Mapping, "a mapping of token ids to numbers")
        for token, bias in self.logit_bias.items():
            _check_int("logit_bias token", token, 0, "a token id", MAX_TOKEN_ID)
            _check(f"logit_bias[{token}]", bias, -MAX_BIAS, MAX_BIAS, "-10000 to 10000")
        # A copy: the caller's may change, and need not be a dict.
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))

    @property
    def is_deterministic(self) -> bool:
        """Whether the same request gives the same answer again."""
        return self.temperature == 0 or self.seed is not None


class Cancellation:
    """A switch that any thread may turn once; work in progress attaches a callback to it."""

    __slots__ = ("_callbacks", "_is_cancelled", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Turn the switch and call what is attached; further calls do nothing."""
        with self._lock:
            if self._is_cancelled:
                return
            self._is_cancelled = True
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    @contextmanager
    def attached(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` if the switch turns, or has turned, while the block runs."""
        with self._lock:
            self._callbacks.append(callback)
            is_late = self._is_cancelled
        try:
            if is_late:
                callback()
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)


GrammarKind = Literal["schema", "regex", "choice", "lark", "tools", "mixed"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like; every token is chosen among those that keep to it.

    `source` is a JSON schema, a regular expression, a JSON list of texts, or a grammar in the
    Lark dialect of llguidance; that of "tools" writes calls, that of "mixed" also free text.
    """

    kind: GrammarKind
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an engine answers. Raises InvalidRequestError.

    `text` is a document that belongs to the last user message; it may be longer than the context
    window. A `prompt`, as text or token ids, is continued as it stands, instead of messages.
    `max_tokens` None means the engine's default. `schema` asks for a JSON answer, a `grammar` for
    one of any form. With `tools` the answer may be calls in the model's own form, several if
    `is_parallel`; `tool_choice` is "auto", "none", "required" or the name of the tool to call.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    text: str | None = None
    max_tokens: int | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    grammar: Grammar | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    is_parallel: bool = True
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.prompt is None:
            self._check_messages()
        elif self.messages or self.text is not None or self.schema is not None:
            message = "a prompt that is continued takes no messages, text or schema"
            raise InvalidRequestError(message)
        if self.text is not None:
            check_type("text", self.text, str, "a string")
        if self.max_tokens is not None:
            expected = "a whole number from 1 to 2**31-1"
            _check_int("max_tokens", self.max_tokens, 1, expected, MAX_TOKENS)
        is_text = all(isinstance(stop, str) for stop in self.stop)
        if len(self.stop) > MAX_STOP_STRINGS or not is_text or not all(self.stop):
            message = f"stop takes at most {MAX_STOP_STRINGS} strings, none of them empty"
            raise InvalidRequestError(message)
        if self.schema is not None:
            _check_schema(self.schema)
        if self.schema is not None and self.grammar is not None:
            message = "an answer has a schema or a grammar, not both"
            raise InvalidRequestError(message)
        self._check_tools()

    def _check_messages(self) -> None:
        for turn in self.messages:
            check_type("a message of the history", turn, Message, "Message(role, content)")
            check_type("the content of a message", turn.content, str, "a string")
        if not self.messages or self.messages[-1].role not in ("user", "tool"):
            message = "the last message must be the user's, or the result of a call"
            raise InvalidRequestError(message)
        if not all(message.role in get_args(Role) for message in self.messages):
            message = f"a message's role is none of {', '.join(get_args(Role))}"
            raise InvalidRequestError(message)
        last = self.messages[-1]
        if last.role == "user" and not last.content.strip():
            message = "the prompt is empty; say what to do"
            raise InvalidRequestError(message)

    def _check_tools(self) -> None:
        names = [tool.name for tool in self.tools]
        choices = ("auto", "none", "required", *names)
        if self.tool_choice not in choices or (not names and self.tool_choice == "required"):
            message = f"tool_choice is {self.tool_choice!r}; expected one of {', '.join(choices)}"
            raise InvalidRequestError(message)
        if names and self.tool_choice != "none" and (self.schema or self.grammar):
            message = "an answer has tools or a form, not both"
            raise InvalidRequestError(message)


def _check_schema(schema: object) -> None:
    check_type("schema", schema, Mapping, "a JSON schema as a dict")
    try:
        json.dumps(schema, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as err:
        # The library's message names types and never a value.
        message = f"schema cannot be written as JSON ({err}); expected strings, numbers and lists"
        raise InvalidRequestError(message) from err


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts, summed over all parts; `cached_tokens` of the prompt needed no prefill."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall times; `first_token_ms` counts from the start of the request, loading included."""

    load_ms: float
    first_token_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Route:
    """Where the answer came from, why, and in how many parts the text was read.

    `is_extracted`: found in the text by the bundle's reader, not written by the model.
    """

    engine: Literal["local", "cloud"]
    model: str
    reason: str
    cached: bool = False
    num_parts: int = 1
    is_extracted: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """A finished answer; `data` is the parsed JSON when a schema was asked for."""

    text: str
    data: Any
    route: Route
    usage: Usage
    timings: Timings
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely the model found a token: natural logarithms, before temperature and penalties.

    `top` are the likeliest tokens in its place, best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. The last one has a `finish_reason` and the engine's `usage`.

    `token_ids` are the tokens generated for it, with their `logprobs` when these were asked for;
    it has no text while a long text is read in parts. The runtime's last chunk carries the whole
    `result` as well.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    result: Result | None = None
