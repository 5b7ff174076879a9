"""Native core of autoglm: models, sessions and kernels."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy
import numpy.typing
from numpy.typing import NDArray
from typing_extensions import Buffer


class CoreError(Exception):
    """An error of the native core; args are (code, message)."""

def cpu_info() -> dict[str, object]:
    """
    The kernel path in use (isa), those supported, physical_cores, vendor and features.
    """

def json_shape(text: bytes) -> tuple[int, int, int]:
    """
    How many values and containers a JSON text has at most, and how deep it goes.
    """

class ModelConfig:
    """Shape and flags of a model; fields are documented in model/config.h."""

    def __init__(self) -> None: ...

    @property
    def weights(self) -> str:
        """A format of matrices, as pack_rows takes it"""

    @weights.setter
    def weights(self, arg: str, /) -> None: ...

    @property
    def vocab_size(self) -> int: ...

    @vocab_size.setter
    def vocab_size(self, arg: int, /) -> None: ...

    @property
    def hidden_size(self) -> int: ...

    @hidden_size.setter
    def hidden_size(self, arg: int, /) -> None: ...

    @property
    def num_layers(self) -> int: ...

    @num_layers.setter
    def num_layers(self, arg: int, /) -> None: ...

    @property
    def num_heads(self) -> int: ...

    @num_heads.setter
    def num_heads(self, arg: int, /) -> None: ...

    @property
    def num_kv_heads(self) -> int: ...

    @num_kv_heads.setter
    def num_kv_heads(self, arg: int, /) -> None: ...

    @property
    def head_dim(self) -> int: ...

    @head_dim.setter
    def head_dim(self, arg: int, /) -> None: ...

    @property
    def intermediate_size(self) -> int: ...

    @intermediate_size.setter
    def intermediate_size(self, arg: int, /) -> None: ...

    @property
    def rms_norm_eps(self) -> float: ...

    @rms_norm_eps.setter
    def rms_norm_eps(self, arg: float, /) -> None: ...

    @property
    def rotary_dim(self) -> int: ...

    @rotary_dim.setter
    def rotary_dim(self, arg: int, /) -> None: ...

    @property
    def rope_interleaved(self) -> bool: ...

    @rope_interleaved.setter
    def rope_interleaved(self, arg: bool, /) -> None: ...

    @property
    def inv_freq(self) -> list[float]: ...

    @inv_freq.setter
    def inv_freq(self, arg: Sequence[float], /) -> None: ...

    @property
    def rope_scale(self) -> float: ...

    @rope_scale.setter
    def rope_scale(self, arg: float, /) -> None: ...

    @property
    def sandwich_norms(self) -> bool: ...

    @sandwich_norms.setter
    def sandwich_norms(self, arg: bool, /) -> None: ...

    @property
    def qk_norm(self) -> bool: ...

    @qk_norm.setter
    def qk_norm(self, arg: bool, /) -> None: ...

    @property
    def tie_word_embeddings(self) -> bool: ...

    @tie_word_embeddings.setter
    def tie_word_embeddings(self, arg: bool, /) -> None: ...

    @property
    def max_position(self) -> int: ...

    @max_position.setter
    def max_position(self, arg: int, /) -> None: ...

    @property
    def num_experts(self) -> int: ...

    @num_experts.setter
    def num_experts(self, arg: int, /) -> None: ...

    @property
    def num_experts_per_tok(self) -> int: ...

    @num_experts_per_tok.setter
    def num_experts_per_tok(self, arg: int, /) -> None: ...

    @property
    def num_shared_experts(self) -> int: ...

    @num_shared_experts.setter
    def num_shared_experts(self, arg: int, /) -> None: ...

    @property
    def moe_intermediate_size(self) -> int: ...

    @moe_intermediate_size.setter
    def moe_intermediate_size(self, arg: int, /) -> None: ...

    @property
    def first_k_dense(self) -> int: ...

    @first_k_dense.setter
    def first_k_dense(self, arg: int, /) -> None: ...

    @property
    def n_group(self) -> int: ...

    @n_group.setter
    def n_group(self, arg: int, /) -> None: ...

    @property
    def topk_group(self) -> int: ...

    @topk_group.setter
    def topk_group(self, arg: int, /) -> None: ...

    @property
    def routed_scaling_factor(self) -> float: ...

    @routed_scaling_factor.setter
    def routed_scaling_factor(self, arg: float, /) -> None: ...

    @property
    def norm_topk_prob(self) -> bool: ...

    @norm_topk_prob.setter
    def norm_topk_prob(self, arg: bool, /) -> None: ...

class Plan:
    """How an Executor uses the machine."""

    def __init__(self) -> None: ...

    @property
    def threads(self) -> int:
        """0: physical cores"""

    @threads.setter
    def threads(self, arg: int, /) -> None: ...

    @property
    def isa(self) -> str:
        """'': $AUTOGLM_ISA, else the best path"""

    @isa.setter
    def isa(self, arg: str, /) -> None: ...

    @property
    def kv_dtype(self) -> str:
        """fp32, fp16, int8 or '': fp32 for fp32 weights, else fp16"""

    @kv_dtype.setter
    def kv_dtype(self, arg: str, /) -> None: ...

    @property
    def activation_bits(self) -> int:
        """16, or 8 for faster prompts: bits of quantised activations"""

    @activation_bits.setter
    def activation_bits(self, arg: int, /) -> None: ...

    @property
    def prefill_chunk(self) -> int:
        """tokens of a forward pass"""

    @prefill_chunk.setter
    def prefill_chunk(self, arg: int, /) -> None: ...

    @property
    def max_context(self) -> int:
        """tokens in the KV cache; 0: the longest sequence, or one window's share"""

    @max_context.setter
    def max_context(self, arg: int, /) -> None: ...

    @property
    def window(self) -> int:
        """
        attention over the first `sink` and the latest `window` tokens, rounded up to pages; 0: over all
        """

    @window.setter
    def window(self, arg: int, /) -> None: ...

    @property
    def sink(self) -> int: ...

    @sink.setter
    def sink(self, arg: int, /) -> None: ...

    def held_tokens(self, num_tokens: int) -> int:
        """The most tokens' pages that a sequence of this length holds at once."""

    @property
    def expert_memory_mib(self) -> int:
        """memory for experts that are read when needed; 0: mapped as all weights"""

    @expert_memory_mib.setter
    def expert_memory_mib(self, arg: int, /) -> None: ...

class Sampling:
    """How the next token is chosen; the default is greedy."""

    def __init__(self) -> None: ...

    @property
    def temperature(self) -> float: ...

    @temperature.setter
    def temperature(self, arg: float, /) -> None: ...

    @property
    def top_k(self) -> int: ...

    @top_k.setter
    def top_k(self, arg: int, /) -> None: ...

    @property
    def top_p(self) -> float: ...

    @top_p.setter
    def top_p(self, arg: float, /) -> None: ...

    @property
    def min_p(self) -> float: ...

    @min_p.setter
    def min_p(self, arg: float, /) -> None: ...

    @property
    def repetition_penalty(self) -> float: ...

    @repetition_penalty.setter
    def repetition_penalty(self, arg: float, /) -> None: ...

    @property
    def presence_penalty(self) -> float: ...

    @presence_penalty.setter
    def presence_penalty(self, arg: float, /) -> None: ...

    @property
    def frequency_penalty(self) -> float: ...

    @frequency_penalty.setter
    def frequency_penalty(self, arg: float, /) -> None: ...

    @property
    def seed(self) -> int: ...

    @seed.setter
    def seed(self, arg: int, /) -> None: ...

    @property
    def logit_bias(self) -> dict[int, float]:
        """added to logits, by token id"""

    @logit_bias.setter
    def logit_bias(self, arg: Mapping[int, float], /) -> None: ...

    @property
    def eos_ids(self) -> list[int]: ...

    @eos_ids.setter
    def eos_ids(self, arg: Sequence[int], /) -> None: ...

    @property
    def ignore_eos(self) -> bool: ...

    @ignore_eos.setter
    def ignore_eos(self, arg: bool, /) -> None: ...

    @property
    def prompt_lookup(self) -> bool:
        """verify drafts from the text so far; changes speed, never a token"""

    @prompt_lookup.setter
    def prompt_lookup(self, arg: bool, /) -> None: ...

    @property
    def num_logprobs(self) -> int:
        """likeliest tokens to report beside each sampled one; -1: report none"""

    @num_logprobs.setter
    def num_logprobs(self, arg: int, /) -> None: ...

def release_free_memory() -> None:
    """
    Gives memory that was freed back to the system, where the allocator can be asked to.
    """

def limit_heaps(most: int) -> None:
    """
    Lets all threads share so many heaps at most, where the allocator can be asked to.
    """

class Model:
    """A model's mapped, validated weights."""

    def __init__(self, config: ModelConfig, files: Sequence[str], tensors: Sequence[tuple[str, str, Sequence[int], int, int, int]]) -> None:
        """
        tensors: (name, dtype, shape, index into files, offset in the file, size in bytes)
        """

    def start_prefault(self) -> None:
        """
        Maps the weights from now on, beside other work; not those of models with experts.
        """

    @property
    def weights_bytes(self) -> int: ...

class Executor:
    """Threads, scratch and KV cache that run one model."""

    def __init__(self, model: Model, plan: Plan, threads_of: Executor | None = None) -> None:
        """threads_of: another executor whose threads this one uses too, by turns"""

    @property
    def isa(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """of the longest sequence"""

    @property
    def page_bytes(self) -> int:
        """memory of a KV cache page, of all layers"""

    @property
    def num_free_pages(self) -> int:
        """KV cache pages that no session holds"""

    def cached_prefixes(self) -> list[list[int]]:
        """
        What reusable pages stand for: token ids from the first on, latest used first.
        """

    def num_cached(self, ids: Sequence[int]) -> int:
        """Leading tokens with reusable pages."""

    def read_page(self, ids: Sequence[int]) -> bytes | None:
        """
        The bytes of the reusable page that ends with the last of ids, or None.
        """

    def write_page(self, ids: Sequence[int], data: object) -> bool:
        """
        Makes such bytes a reusable page; False when pages before it are missing or none is free.
        """

    def start_profile(self) -> None:
        """Records the steps of every forward pass from now on."""

    def stop_profile(self) -> list[tuple[str, int, int, float, float, int, int, int]]:
        """
        The recorded steps: (name, layer or -1, tokens, start in s, seconds, bytes, operations, bytes of the KV cache).
        """

    def expert_stats(self) -> tuple[int, int, int, int, int, int, int, int, float]:
        """
        Of experts that are read when needed, since the start: slots, bytes of an expert, experts used, in memory, on their way; predicted, foreseen; bytes read, seconds waited.
        """

    def run_passes(self, items: Sequence[tuple[Session, Sampling, int, int]], seconds: float = float('inf')) -> list[tuple[list[int], int, bool, int, str]]:
        """
        Forward passes that sessions share. items: (session, sampling, most tokens to compute, most ids to sample); returns for each (ids, tokens without KV, whether the answer ended, error code or 0, message).
        """

    @property
    def prefill_chunk(self) -> int:
        """tokens of a pass"""

    def measure_limits(self) -> tuple[float, float]:
        """
        Read bandwidth in bytes/s and arithmetic peak in operations/s, of all threads.
        """

class DraftModel:
    """A model that drafts for sessions of another with the same vocabulary."""

    def __init__(self, executor: Executor, target: Executor) -> None: ...

class Session:
    """One token sequence: prefill, then decode."""

    def __init__(self, executor: Executor, draft_model: DraftModel | None = None) -> None: ...

    def prefill(self, ids: Sequence[int]) -> int:
        """Appends ids; returns how many tokens were found in the prefix cache."""

    def decode(self, n: int, sampling: Sampling, seconds: float = float('inf')) -> list[int]:
        """
        Up to n sampled tokens, ending early with an EOS id, when the context is full, or when one more step would take longer than `seconds` in all.
        """

    def logits(self, ids: Sequence[int]) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]:
        """
        Logits [len(ids), vocab_size] of a sequence of its own, apart from the session's.
        """

    def score(self, ids: Sequence[int]) -> float:
        """Sum over t >= 1 of -log p(ids[t] | ids[:t])."""

    def append(self, ids: Sequence[int]) -> int:
        """As prefill, but computes nothing yet: run_passes does."""

    def keep_to(self, constraint: object) -> None:
        """Asks a Constraint about every token from now on."""

    def take_logprobs(self) -> list[tuple[int, float, list[tuple[int, float]]]]:
        """
        Of the tokens sampled since the last call: (id, logprob, [(id, logprob)]).
        """

    def logprobs(self, ids: Sequence[int], num_top: int) -> list[tuple[int, float, list[tuple[int, float]]]]:
        """Of ids[1:] in a sequence of their own, as take_logprobs."""

    def embed(self, ids: Sequence[int]) -> list[float]:
        """Mean of the last hidden states."""

    def cancel(self) -> None:
        """
        Makes the running call, or else the next, raise code 501; from any thread.
        """

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_drafted(self) -> int:
        """tokens drafted"""

    @property
    def num_accepted(self) -> int:
        """drafted tokens that were right"""

def packed_shapes(weights: str, rows: int, cols: int) -> list[tuple[str, str, list[int]]]:
    """
    Name suffix, safetensors dtype and shape of the parts of a packed matrix.
    """

def pack_rows(weights: str, dtype: str, data: Buffer, rows: int, cols: int, threads: int = 0, *, column_scale: Buffer | None = None, signs: Buffer | None = None) -> list[bytes]:
    """
    Packs a row-major matrix of dtype F32, F16 or BF16; parts in the order of packed_shapes. Columns are first multiplied by the float32 column_scale, then rows rotated by signs.
    """

def transform_rows(dtype: str, data: Buffer, rows: int, cols: int, *, column_scale: Buffer | None = None, signs: Buffer | None = None, is_column_wise: bool = False) -> bytes:
    """
    The matrix as float32 after what pack_rows would do to it before packing. is_column_wise rotates columns instead of rows; signs then has a value a row.
    """

def choose_scales(weights: str, data: Buffer, rows: int, cols: int, *, importance: Buffer | None = None) -> tuple[bytes, bytes]:
    """
    Integer group scales and float scales of a float32 matrix for int4 or int3; importance weighs the squared error of each column.
    """

def dequantize(weights: str, parts: Sequence[Buffer], rows: int, cols: int) -> bytes:
    """The float32 matrix that packed parts stand for, row-major."""

def gemm(weights: str, parts: Sequence[Buffer], rows: int, x: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32] | None = None, swiglu: bool = False, isa: str = '', threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    x [m, cols] times a packed [rows, cols] matrix transposed; swiglu halves the columns. With 0 threads one a physical core works.
    """

def attention(q: numpy.typing.NDArray[numpy.float32], k: numpy.typing.NDArray[numpy.float32], v: numpy.typing.NDArray[numpy.float32], kv_dtype: str, isa: str = '') -> numpy.typing.NDArray[numpy.float32]:
    """
    Causal attention of the last tokens, q [t, heads, dim] over k, v [s, kv_heads, dim].
    """

def rms_norm(x: numpy.typing.NDArray[numpy.float32], gain: numpy.typing.NDArray[numpy.float32], eps: float, isa: str = '') -> numpy.typing.NDArray[numpy.float32]:
    """RMSNorm of each row."""

def rope(heads: numpy.typing.NDArray[numpy.float32], cos: numpy.typing.NDArray[numpy.float32], sin: numpy.typing.NDArray[numpy.float32], interleaved: bool, isa: str = '') -> numpy.typing.NDArray[numpy.float32]:
    """Rotates the leading 2 * len(cos) values of each row."""
