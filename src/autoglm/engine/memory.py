"""The memory contract: what a model will take at its most, known before the first token.

Weights are mapped and counted whole, as running reads all of them; the KV cache by the pages of
the longest sequence. What loading takes besides is measured, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoglm.engine.precision import kv_token_bytes
from autoglm.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoglm.modelfile.bundle import Bundle

MIB = 2**20
# Code that only running brings in, logits and the objects of a request.
RUNNING_BYTES = 3 * MIB
# Interpreter, libraries, scratch and a small tokenizer: what no loaded model does without.
LEAST_BYTES = 32 * MIB
# The kernel maps this much around a page that is touched.
FAULT_AROUND_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Bytes that are resident at the peak of a request, by what they hold."""

    context_tokens: int
    weights_bytes: int
    kv_bytes: int
    other_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The peak of the resident memory."""
        return self.weights_bytes + self.kv_bytes + self.other_bytes


def touched_weights(bundle: Bundle, context_tokens: int) -> int:
    """Bytes of the weights that a sequence of this length reads.

    All of them, but for the rows of an embedding that is not the head as well.
    """
    if bundle.config.tie_word_embeddings:
        return bundle.weights_bytes
    names = ("model.embed_tokens.",)
    embedding = sum(t.nbytes for t in bundle.tensors if t.name.startswith(names))
    return bundle.weights_bytes - embedding + min(embedding, context_tokens * FAULT_AROUND_BYTES)


def need_after_loading(
    bundles: Sequence[Bundle], context_tokens: int, *, kv_bytes: int, resident: int, peak: int
) -> MemoryNeed:
    """The peak of a process that has opened these bundles and run nothing yet.

    It has `resident` bytes after loading and had `peak` while it parsed the tokenizer, beside
    which the weights are mapped.
    """
    return MemoryNeed(
        context_tokens=context_tokens,
        weights_bytes=sum(touched_weights(bundle, context_tokens) for bundle in bundles),
        kv_bytes=kv_bytes,
        other_bytes=max(resident + RUNNING_BYTES, peak - kv_bytes),
    )


def check_fits(
    bundles: Sequence[Bundle],
    *,
    held_tokens: int,
    available: int | None,
    precision: str,
    expert_memory_mib: int = 0,
) -> None:
    """ResourceError when `available` bytes cannot hold the weights and KV caches this long.

    Mapped experts count as not resident: those that do not fit are read again from the file. A
    memory of their own counts as far as they fill it.
    """
    if available is None:
        return
    resident = sum(_resident_weights(bundle, expert_memory_mib) for bundle in bundles)
    fixed = resident + LEAST_BYTES
    token_bytes = sum(kv_token_bytes(bundle.config, precision) for bundle in bundles)
    need = fixed + held_tokens * token_bytes
    if need <= available:
        return
    message = (
        f"{bundles[0].path}: needs {need // MIB} MiB with {held_tokens} tokens of context, "
        f"{available // MIB} MiB are available; "
    )
    fitting = (available - fixed) // token_bytes
    if fitting > 0:
        message += f"a context of {fitting} tokens would fit"
    else:
        message += "use a smaller model or free some memory"
    raise ResourceError(message)


def _resident_weights(bundle: Bundle, expert_memory_mib: int) -> int:
    experts = sum(tensor.nbytes for tensor in bundle.tensors if ".moe.experts." in tensor.name)
    return bundle.weights_bytes - experts + min(experts, expert_memory_mib * MIB)
