"""Test doubles that several suites share: a byte tokenizer and engines over `FakeModel`."""

from collections.abc import Callable, Sequence

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from autoglm.engine.fake import FakeModel
from autoglm.engine.local import LocalEngine
from autoglm.engine.prompt import PromptBuilder
from autoglm.engine.template import render
from autoglm.engine.tokenizer import Tokenizer
from autoglm.types import Chunk, Message, Request, SamplingParams

CONTROLS = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
NUM_BYTES = 256
EOS = NUM_BYTES


def byte_backend() -> Backend:
    """One token per byte, then the control tokens from id 256: any text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(c, special=True, normalized=False) for c in CONTROLS])
    return backend


BYTES = Tokenizer(byte_backend())


def fake_model(
    answer: Callable[[str, SamplingParams], str], *, pool_tokens: int = 4096
) -> FakeModel:
    """A model over byte tokens that answers a prompt's text with `answer` and an end token."""

    def continuation(ids: list[int], sampling: SamplingParams) -> Sequence[int]:
        return [*BYTES.encode(answer(BYTES.decode(ids), sampling)), EOS]

    return FakeModel(continuation, pool_tokens=pool_tokens)


def fake_engine(
    model: FakeModel, *, context_tokens: int = 1024, max_tokens: int = 64
) -> LocalEngine:
    """A local engine over a fake model; prompts are the plain texts."""
    prompts = PromptBuilder(BYTES, None, render=render)
    return LocalEngine(
        model,
        BYTES,
        prompts,
        eos_ids=(EOS,),
        context_tokens=context_tokens,
        max_tokens=max_tokens,
    )


def ask(prompt: str, text: str | None = None, **fields: object) -> Request:
    """A request of one user message."""
    return Request(messages=(Message("user", prompt),), text=text, **fields)


def text_of(chunks: Sequence[Chunk]) -> str:
    """The whole text of a stream."""
    return "".join(chunk.text for chunk in chunks)
