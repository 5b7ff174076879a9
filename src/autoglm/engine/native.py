"""A bundle inside the native core: sessions, logits and scores over token ids."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, SupportsIndex

from autoglm.config import EXACT, FAST, PRECISIONS
from autoglm.engine.base import Constraint, Part, PassOutcome
from autoglm.engine.native_pages import NativePages
from autoglm.engine.precision import kv_dtype
from autoglm.errors import (
    ContextOverflowError,
    InvalidRequestError,
    UsageError,
    core_error,
    translate_core_errors,
)
from autoglm.types import Cancellation, Logprob, SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoglm import _core
    from autoglm.modelfile.arch import ArchConfig
    from autoglm.modelfile.bundle import Bundle
    from autoglm.telemetry.experts import ExpertStats
    from autoglm.telemetry.profile import Limits, StepEvent


PAGE_TOKENS = 64
DEFAULT_SINK = PAGE_TOKENS


class NativeModel:
    """Mapped weights, worker threads and one KV cache, shared by its sessions."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        pool_tokens: int,
        threads: int = 0,
        window: int = 0,
        sink: int = DEFAULT_SINK,
        has_prompt_lookup: bool = True,
        draft: Bundle | None = None,
        expert_memory_mib: int = 0,
        precision: str = EXACT,
    ) -> None:
        """`threads` 0 is the number of physical cores.

        `precision` "exact" rounds activations to 16 bits and keeps keys and values as halves;
        "fast" takes 8 bits for both (fp32 weights keep their fp32 cache).

        `window` above 0 attends to the first `sink` and the latest `window` tokens only, both
        rounded up to pages of 64: a text of any length in bounded memory.

        `has_prompt_lookup` lets sessions verify drafts from the text so far, `draft` those of a
        smaller model with the same vocabulary: faster where drafts are right, the same tokens.

        `expert_memory_mib` above 0 bounds the experts in memory; the others are read when needed.

        Raises ModelFileError and its kinds, ResourceError, UsageError.
        """
        from autoglm import _core

        if expert_memory_mib and not bundle.config.num_experts:
            message = (
                f"expert_memory_mib is {expert_memory_mib}, but the model in {bundle.path} "
                "has no experts; leave it 0"
            )
            raise UsageError(message)

        self._core = _core
        self._bundle = bundle
        self._has_prompt_lookup = has_prompt_lookup
        self._measured: list[_core.Session] = []
        plan = _plan(bundle, window, sink, precision)
        plan.threads = threads
        plan.max_context = pool_tokens
        plan.expert_memory_mib = expert_memory_mib
        self._plan = plan
        with translate_core_errors():
            self._model = _native_model(bundle)
            self._executor = _core.Executor(self._model, plan)
            self._executors = [self._executor]
            self._draft_model: _core.DraftModel | None = None
            if draft is not None:
                plan.expert_memory_mib = 0
                plan.kv_dtype = kv_dtype(draft.config, precision)
                plan.activation_bits = _activation_bits(draft, precision)
                drafting = _core.Executor(_native_model(draft), plan, self._executor)
                self._draft_model = _core.DraftModel(drafting, self._executor)
                self._executors.append(drafting)
        self.pool_tokens: int = self._executor.num_free_pages * PAGE_TOKENS

    @property
    def isa(self) -> str:
        """The instruction set the kernels use."""
        return self._executor.isa

    @property
    def threads(self) -> int:
        """The number of worker threads."""
        return self._executor.threads

    @property
    def max_tokens(self) -> int:
        """The longest sequence that can be computed."""
        return self._executor.max_tokens

    def held_tokens(self, num_tokens: int) -> int:
        """How much of the pool a sequence of `num_tokens` takes at most."""
        return self._plan.held_tokens(num_tokens)

    def start_prefault(self) -> None:
        """Map the weights from now on, beside other work."""
        self._model.start_prefault()

    @property
    def max_pass_tokens(self) -> int:
        """How many tokens a pass reads at most."""
        return self._executor.prefill_chunk

    def run_passes(self, parts: Sequence[Part[NativeSession]], seconds: float) -> list[PassOutcome]:
        """Forward passes that the sessions of `parts` share, see `TokenModel.run_passes`."""
        items = [
            (part.session.core, part.session.sampling, part.most_tokens, part.most_ids)
            for part in parts
        ]
        with translate_core_errors():
            outcomes = self._executor.run_passes(items, seconds)
        return [
            PassOutcome(ids, num_pending, is_ended, core_error(code, message) if code else None)
            for ids, num_pending, is_ended, code, message in outcomes
        ]

    def kv_bytes(self, num_tokens: int) -> int:
        """Memory of the pages that a sequence of `num_tokens` holds at most."""
        num_pages = -(-self.held_tokens(num_tokens) // PAGE_TOKENS)
        return num_pages * sum(executor.page_bytes for executor in self._executors)

    @property
    def kv_pages(self) -> tuple[int, int]:
        """Pages of the KV cache that sessions hold, and all there are."""
        num_pages = self.pool_tokens // PAGE_TOKENS
        return num_pages - self._executor.num_free_pages, num_pages

    @property
    def pages(self) -> NativePages:
        """The pages of the prefix cache."""
        return NativePages(self._executor, self._plan)

    def session(self, sampling: SamplingParams) -> NativeSession:
        """A new, empty sequence. Raises InvalidRequestError for a bias on an unknown token."""
        _checked_ids(sampling.logit_bias, self._bundle.config.vocab_size, "logit_bias token")
        native = _native_sampling(sampling, self._bundle.generation, self._bundle.eos_ids)
        native.prompt_lookup = self._has_prompt_lookup
        with translate_core_errors():
            session = self._core.Session(self._executor, self._draft_model)
        return NativeSession(session, native)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [len(ids), vocab_size], of a fresh sequence."""
        import numpy as np

        with self._measuring(ids) as (session, numbers):
            return np.asarray(session.logits(numbers), np.float32)

    def logprobs(
        self, ids: Sequence[int], num_top: int, cancellation: Cancellation
    ) -> list[Logprob]:
        """Of ids[1:], with the `num_top` likeliest tokens in the place of each."""
        with self._measuring(ids) as (session, numbers), cancellation.attached(session.cancel):
            return [_logprob(entry) for entry in session.logprobs(numbers, num_top)]

    def embed(self, ids: Sequence[int], cancellation: Cancellation) -> list[float]:
        """The mean of the last hidden states, [hidden_size]."""
        with self._measuring(ids) as (session, numbers), cancellation.attached(session.cancel):
            return session.embed(numbers)

    def score(self, ids: Sequence[int]) -> float:
        """Sum of -log p(ids[t] | ids[:t]) in nats, over t >= 1."""
        with self._measuring(ids) as (session, numbers):
            return session.score(numbers)

    def measure_limits(self) -> Limits:
        """What the machine can do at best with this model's kernels and threads; a second long."""
        from autoglm.telemetry.profile import Limits

        with translate_core_errors():
            bandwidth, peak = self._executor.measure_limits()
        return Limits(read_bytes_per_s=bandwidth, operations_per_s=peak)

    def expert_stats(self) -> ExpertStats:
        """How the memory for experts has done so far; all zero when they are mapped."""
        from autoglm.telemetry.experts import ExpertStats

        return ExpertStats(*self._executor.expert_stats())

    def start_profile(self) -> None:
        """Record the steps of every forward pass from now on."""
        self._executor.start_profile()

    def stop_profile(self) -> tuple[StepEvent, ...]:
        """Record no longer; returns the steps so far."""
        from autoglm.telemetry.profile import StepEvent

        return tuple(StepEvent(*event) for event in self._executor.stop_profile())

    def cancel(self) -> None:
        """Make running `logits` and `score` calls raise CancelledError. From any thread."""
        for session in tuple(self._measured):
            session.cancel()

    @contextmanager
    def _measuring(self, ids: Sequence[int]) -> Iterator[tuple[_core.Session, list[int]]]:
        numbers = _checked_ids(ids, self._bundle.config.vocab_size, "token id")
        if not numbers:
            message = "no token ids; give at least one"
            raise InvalidRequestError(message)
        if len(numbers) > self._executor.max_tokens:
            message = (
                f"there are {len(numbers)} token ids, the context holds {self._executor.max_tokens}"
            )
            raise ContextOverflowError(message)
        with translate_core_errors():
            session = self._core.Session(self._executor)
            self._measured.append(session)
            try:
                yield session, numbers
            finally:
                self._measured.remove(session)


class NativeSession:
    """One sequence of a NativeModel."""

    def __init__(self, session: _core.Session, sampling: _core.Sampling) -> None:
        self.core = session
        self.sampling = sampling
        self.num_pending = 0

    def append(self, ids: list[int]) -> int:
        """Take the prompt, to be read by passes; returns what the prefix cache has of it."""
        with translate_core_errors():
            num_cached = self.core.append(ids)
        self.num_pending = len(ids) - num_cached
        return num_cached

    def keep_to(self, constraint: Constraint) -> None:
        """Ask it about every token that is chosen."""
        self.core.keep_to(constraint)

    def take_logprobs(self) -> list[Logprob]:
        """Of the tokens since the last call, when the sampling asked for them."""
        return [_logprob(entry) for entry in self.core.take_logprobs()]

    def prefill(self, ids: list[int]) -> int:
        """Read the prompt; returns the number of tokens found in the prefix cache."""
        with translate_core_errors():
            return self.core.prefill(ids)

    def decode(self, num_tokens: int, seconds: float = math.inf) -> list[int]:
        """The next tokens, at most `num_tokens`, up to and with an end token."""
        with translate_core_errors():
            return self.core.decode(num_tokens, self.sampling, seconds)

    @property
    def num_drafted(self) -> int:
        """How many tokens were drafted so far."""
        return self.core.num_drafted

    @property
    def num_accepted(self) -> int:
        """How many of them were right."""
        return self.core.num_accepted

    def cancel(self) -> None:
        """Make running and later calls raise CancelledError. Callable from any thread."""
        self.core.cancel()


def held_tokens(num_tokens: int, *, window: int, sink: int) -> int:
    """How much of the KV cache a sequence takes at most: all of it, or what a window keeps."""
    with translate_core_errors():
        return _window_plan(window, sink).held_tokens(num_tokens)


def _logprob(entry: tuple[int, float, list[tuple[int, float]]]) -> Logprob:
    token, logprob, top = entry
    return Logprob(token, logprob, tuple(top))


def _plan(bundle: Bundle, window: int, sink: int, precision: str) -> _core.Plan:
    if precision not in PRECISIONS:
        message = f"precision is {precision!r}; expected {' or '.join(PRECISIONS)}"
        raise UsageError(message)
    plan = _window_plan(window, sink)
    plan.activation_bits = _activation_bits(bundle, precision)
    if precision == FAST:
        plan.kv_dtype = kv_dtype(bundle.config, precision)
    return plan


def _activation_bits(bundle: Bundle, precision: str) -> int:
    """Those the bundle was made for, or fewer when speed is asked for."""
    return 8 if precision == FAST else bundle.packing.activation_bits


def _window_plan(window: int, sink: int) -> _core.Plan:
    from autoglm import _core

    plan = _core.Plan()
    plan.window, plan.sink = window, sink
    return plan


def _checked_ids(ids: Iterable[object], vocab_size: int, name: str) -> list[int]:
    """The ids as Python's integers; InvalidRequestError for one outside the vocabulary."""
    numbers: list[int] = []
    for value in ids:
        number = value.__index__() if isinstance(value, SupportsIndex) else -1
        if not 0 <= number < vocab_size:
            message = f"{name} is {value!r}; expected a whole number from 0 to {vocab_size - 1}"
            raise InvalidRequestError(message)
        numbers.append(number)
    return numbers


def _native_model(bundle: Bundle) -> _core.Model:
    from autoglm import _core

    files = [str(path) for path in bundle.files]
    return _core.Model(native_config(bundle.config), files, list(bundle.tensors))


def native_config(config: ArchConfig) -> _core.ModelConfig:
    from autoglm import _core

    native = _core.ModelConfig()
    for field in fields(config):
        value = getattr(config, field.name)
        setattr(native, field.name, list(value) if isinstance(value, tuple) else value)
    return native


def _native_sampling(
    params: SamplingParams, defaults: Mapping[str, float], eos_ids: tuple[int, ...]
) -> _core.Sampling:
    """`defaults` stand in for what the request leaves open, but for the temperature."""
    from autoglm import _core

    def either(given: float | None, name: str, neutral: float) -> float:
        return defaults.get(name, neutral) if given is None else given

    native = _core.Sampling()
    native.temperature = params.temperature
    native.top_k = int(either(params.top_k, "top_k", 0))
    native.top_p = either(params.top_p, "top_p", 1.0)
    native.min_p = either(params.min_p, "min_p", 0.0)
    native.repetition_penalty = either(params.repetition_penalty, "repetition_penalty", 1.0)
    native.presence_penalty = params.presence_penalty
    native.frequency_penalty = params.frequency_penalty
    native.seed = int.from_bytes(os.urandom(8)) if params.seed is None else params.seed
    native.logit_bias = dict(params.logit_bias)
    native.eos_ids = list(eos_ids)
    native.ignore_eos = params.ignore_eos
    native.num_logprobs = -1 if params.num_logprobs is None else params.num_logprobs
    return native
