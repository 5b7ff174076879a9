"""A model opened from its directory: token ids, logits and scores, for tools and for the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from autoglm.config import EXACT
from autoglm.engine.golden import check_golden
from autoglm.engine.local import LocalEngine
from autoglm.engine.memory import MemoryNeed, check_fits, need_after_loading
from autoglm.engine.native import DEFAULT_SINK, NativeModel, held_tokens
from autoglm.engine.precision import kv_token_bytes
from autoglm.engine.prompt import FIRST_ROLES, PromptBuilder, template_context
from autoglm.engine.template import ApartRendering, TemplateError, render, render_apart
from autoglm.engine.tokenizer import Tokenizer
from autoglm.errors import ModelNotFoundError, UsageError
from autoglm.hardware.memory import available_bytes
from autoglm.hardware.process import peak_rss_bytes, rss_bytes
from autoglm.modelfile.bundle import Bundle, open_bundle
from autoglm.modelfile.files import read_bounded, resolve_inside
from autoglm.modelfile.manifest import MANIFEST_NAME
from autoglm.modelfile.strict_json import MAX_CONFIG_BYTES
from autoglm.modelfile.tokenizer import MAX_TOKENIZER_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoglm.modelfile.arch import ArchConfig

# Models announce windows of 128k tokens and more, whose KV cache few devices can hold.
DEFAULT_MAX_CONTEXT = 8192
# What the KV cache may take beyond one full window, for other requests and earlier prompts.
KV_SPARE_BYTES = 64 * 2**20
EMBEDDED_MODEL = Path(__file__).parents[1] / "lite" / "bundle"


class LoadedModel:
    """Weights, tokenizer and configuration of one bundle."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 0,
        context_tokens: int = 0,
        window: int = 0,
        sink: int = DEFAULT_SINK,
        prefault: bool = True,
        draft: Bundle | None = None,
        expert_memory_mib: int = 0,
        precision: str = EXACT,
    ) -> None:
        """`context_tokens` 0 is the model's own context, up to DEFAULT_MAX_CONTEXT.

        With a `window` attention sees the first `sink` and the latest `window` tokens, and
        `context_tokens` may be larger than the model's own context. `draft` is a smaller model
        with the same tokenizer whose guesses are verified in batches: the answers are the same.
        `precision` is as in NativeModel.
        Unless `prefault` is off, the weights are mapped while the tokenizer loads. Raises
        UsageError when more is asked for than can be, or the tokenizers differ, ResourceError
        when memory cannot hold it, ModelFileError and its kinds.
        """
        self.bundle = bundle
        self.context_tokens = context_tokens or min(bundle.max_position, DEFAULT_MAX_CONTEXT)
        held = held_tokens(self.context_tokens, window=window, sink=sink)
        self._bundles = (bundle,) if draft is None else (bundle, draft)
        check_fits(
            self._bundles,
            held_tokens=held,
            available=available_bytes(),
            precision=precision,
            expert_memory_mib=expert_memory_mib,
        )
        self._native: NativeModel | None = NativeModel(
            bundle,
            pool_tokens=pool_tokens(bundle.config, held, precision),
            threads=threads,
            window=window,
            sink=sink,
            draft=draft,
            expert_memory_mib=expert_memory_mib,
            precision=precision,
        )
        if prefault:
            self._native.start_prefault()
        self.tokenizer = Tokenizer.from_file(
            bundle.tokenizer_path, vocab_size=bundle.config.vocab_size
        )
        if draft is not None:
            self._check_tokenizer_of(draft)
        check_golden(
            bundle.path, self._native, vocab_size=bundle.config.vocab_size, precision=precision
        )
        if self.context_tokens > max(self._native.max_tokens, bundle.max_position):
            message = (
                f"context_tokens is {context_tokens}; the model in {bundle.path} has a context of "
                f"{bundle.max_position}; a window well below that makes longer texts possible"
            )
            raise UsageError(message)

    def _check_tokenizer_of(self, draft: Bundle) -> None:
        """Raise UsageError unless token ids mean the same to both models."""
        paths = (self.bundle.tokenizer_path, draft.tokenizer_path)
        ours, theirs = (read_bounded(path, MAX_TOKENIZER_BYTES) for path in paths)
        if ours == theirs:
            return
        vocab_size = draft.config.vocab_size
        tokenizer = Tokenizer.from_file(draft.tokenizer_path, vocab_size=vocab_size)
        if tokenizer.vocabulary() == self.tokenizer.vocabulary():
            return
        message = (
            f"the draft model in {draft.path} has another tokenizer than the model in "
            f"{self.bundle.path}; drafts need the same token ids"
        )
        raise UsageError(message)

    @property
    def config(self) -> ArchConfig:
        """Sizes and flags of the architecture."""
        return self.bundle.config

    @property
    def native(self) -> NativeModel:
        """The model in the native core; UsageError after `close`."""
        if self._native is None:
            message = "the model is closed"
            raise UsageError(message)
        return self._native

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [len(ids), vocab_size], of a fresh sequence."""
        return self.native.logits(ids)

    def score(self, ids: Sequence[int]) -> float:
        """Sum of -log p(ids[t] | ids[:t]) in nats, over t >= 1."""
        return self.native.score(ids)

    def cancel(self) -> None:
        """Make running `logits` and `score` calls raise CancelledError. From any thread."""
        self.native.cancel()

    def engine(self, *, max_tokens: int, first: Callable[[], str] | None = None) -> LocalEngine:
        """An engine that answers with this model; `max_tokens` is its usual answer length.

        `first` as in PromptBuilder.
        """
        return LocalEngine(
            self.native,
            self.tokenizer,
            PromptBuilder(
                self.tokenizer,
                self.bundle.chat_template,
                render=render if _is_template_ours(self.bundle) else render_apart,
                special_tokens=_special_tokens(self.bundle),
                first=first,
            ),
            eos_ids=self.bundle.eos_ids,
            context_tokens=self.context_tokens,
            max_tokens=max_tokens,
            temperature=self.bundle.generation.get("temperature", 0.0),
        )

    def memory_need(self, context_tokens: int = 0) -> MemoryNeed:
        """What a request of this many tokens (0: the whole context) takes at its peak.

        Measures this process, so ask right after loading without `prefault`.
        """
        tokens = context_tokens or self.context_tokens
        return need_after_loading(
            self._bundles,
            tokens,
            kv_bytes=self.native.kv_bytes(tokens),
            resident=rss_bytes() or 0,
            peak=peak_rss_bytes() or 0,
        )

    def fingerprint(self) -> bytes:
        """Hash of what answers depend on: manifest, tokenizer and chat template.

        A bundle without a manifest counts by the size and time of its weights. Raises
        ModelFileError when one of these is not a regular file of bounded size.
        """
        digest = hashlib.blake2b()
        manifest = resolve_inside(self.bundle.path, MANIFEST_NAME)
        bounds = {manifest: MAX_CONFIG_BYTES, self.bundle.tokenizer_path: MAX_TOKENIZER_BYTES}
        for path, max_bytes in bounds.items():
            content = read_bounded(path, max_bytes) if path.exists() else b""
            digest.update(b"%d\n" % len(content) + content)
        for path in self.bundle.files:
            status = path.stat()
            digest.update(b"%d %d\n" % (status.st_size, status.st_mtime_ns))
        digest.update((self.bundle.chat_template or "").encode())
        return digest.digest()

    def close(self) -> None:
        """Give the weights and threads back once running requests have ended."""
        self._native = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def pool_tokens(config: ArchConfig, context_tokens: int, precision: str) -> int:
    """How many tokens the KV cache holds: one context, and up to three more if they are small."""
    spare = KV_SPARE_BYTES // kv_token_bytes(config, precision)
    return context_tokens + min(3 * context_tokens, spare)


def embedded_model() -> Path:
    """The model that comes with the package. Raises ModelNotFoundError."""
    if not EMBEDDED_MODEL.is_dir():
        message = "this installation has no embedded model; name one, for example with --model DIR"
        raise ModelNotFoundError(message)
    return EMBEDDED_MODEL


def load_model(
    path: str | Path | None = None,
    *,
    threads: int = 0,
    context_tokens: int = 0,
    window: int = 0,
    sink: int = DEFAULT_SINK,
    prefault: bool = True,
    draft_model: str | Path | None = None,
    expert_memory_mib: int = 0,
    precision: str = EXACT,
) -> LoadedModel:
    """Open the bundle at `path`, None for the embedded one, and that of a draft model if named.

    Raises ModelFileError and its kinds, UsageError, ResourceError.
    """
    bundle = open_bundle(embedded_model() if path is None else path)
    return LoadedModel(
        bundle,
        threads=threads,
        context_tokens=context_tokens,
        window=window,
        sink=sink,
        prefault=prefault,
        draft=None if draft_model is None else open_bundle(draft_model),
        expert_memory_mib=expert_memory_mib,
        precision=precision,
    )


def load_engine(
    path: str | Path | None = None,
    *,
    max_tokens: int,
    threads: int = 0,
    context_tokens: int = 0,
    window: int = 0,
    sink: int = DEFAULT_SINK,
    draft_model: str | Path | None = None,
    expert_memory_mib: int = 0,
    precision: str = EXACT,
) -> tuple[LoadedModel, LocalEngine]:
    """As `load_model` and its `engine`, sooner: the process of a foreign template works meanwhile.

    Raises ModelFileError and its kinds, UsageError.
    """
    bundle = open_bundle(embedded_model() if path is None else path)
    with _rendering_ahead(bundle) as first:
        model = LoadedModel(
            bundle,
            threads=threads,
            context_tokens=context_tokens,
            window=window,
            sink=sink,
            draft=None if draft_model is None else open_bundle(draft_model),
            expert_memory_mib=expert_memory_mib,
            precision=precision,
        )
        return model, model.engine(max_tokens=max_tokens, first=first)


def _is_template_ours(bundle: Bundle) -> bool:
    return bundle.chat_template is None or bundle.path == EMBEDDED_MODEL


def _special_tokens(bundle: Bundle) -> dict[str, str]:
    return {"bos_token": bundle.bos_token, "eos_token": bundle.eos_token}


@contextmanager
def _rendering_ahead(bundle: Bundle) -> Iterator[Callable[[], str] | None]:
    """A foreign template for FIRST_ROLES, begun now; None when it is ours or cannot begin."""
    rendering = None
    if bundle.chat_template is not None and not _is_template_ours(bundle):
        context = template_context(FIRST_ROLES, _special_tokens(bundle))
        with suppress(TemplateError):  # the engine meets it again and reports it
            rendering = ApartRendering(bundle.chat_template, context)
    try:
        yield None if rendering is None else rendering.text
    finally:
        if rendering is not None:
            rendering.close()
