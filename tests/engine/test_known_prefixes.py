"""Prompts that begin like earlier ones: the same ids, and only what is new is tokenised."""

import random

import pytest
from tests.fakes import BYTES, byte_backend
from tokenizers import AddedToken

from autoglm.engine.known_prefixes import LEAST_CHARS, MAX_CHARS, MAX_REMEMBERED, KnownPrefixes
from autoglm.engine.model import embedded_model
from autoglm.engine.tokenizer import Tokenizer

PIECES = ("meeting ", "会议", "  ", "\n", "<|", "|>", "user", "3.5", "<|us", "é", "'s ", "\t", "😀")
ROLES = ("<|user|>", "<|assistant|>", "<|system|>", "[gMASK]")


def of_lite() -> Tokenizer:
    return Tokenizer.from_file(embedded_model() / "tokenizer.json", vocab_size=16_384)


@pytest.mark.parametrize("tokenizer", [BYTES, of_lite()], ids=["bytes", "LITE"])
def test_ids_are_those_of_the_whole_text(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    prefixes = KnownPrefixes(tokenizer)
    histories = ["[gMASK]<sop>"]
    for _ in range(300):
        text = rng.choice(histories[-20:]) if rng.random() < 0.9 else "[gMASK]<sop>"
        text += rng.choice(ROLES) + "".join(rng.choices(PIECES, k=rng.randrange(200)))
        histories.append(text)
        prompt = text + "<|assistant|>\n"
        assert prefixes.encode(prompt) == tokenizer.encode(prompt)


class Counted(Tokenizer):
    """Notes how much is tokenised."""

    num_chars = 0

    def encode(self, text: str, *, has_controls: bool = True) -> list[int]:
        self.num_chars += len(text)
        return super().encode(text, has_controls=has_controls)


def test_the_next_turn_tokenises_what_is_new() -> None:
    tokenizer = Counted(byte_backend())
    prefixes = KnownPrefixes(tokenizer)
    first = "<|user|>\n" + "a long text " * 200
    prefixes.encode(first + "<|assistant|>\n")
    tokenizer.num_chars = 0
    prefixes.encode(first + "<|assistant|>\nYes.<|user|>\nWhy?<|assistant|>\n")
    assert tokenizer.num_chars < 100


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("<|strip|>", special=True, lstrip=True, normalized=False),
        AddedToken("<|word|>", special=True, single_word=True, normalized=False),
        AddedToken("a<|user", special=True, normalized=False),
        AddedToken("x<|user|>y", special=True, normalized=False),
    ],
    ids=lambda token: token.content,
)
def test_control_tokens_that_look_at_what_is_before_them_allow_no_cuts(token) -> None:
    backend = byte_backend()
    backend.add_special_tokens([token])
    tokenizer = Tokenizer(backend)
    assert Tokenizer(byte_backend()).has_firm_controls
    assert not tokenizer.has_firm_controls
    text = "<|user|>" + "a " * LEAST_CHARS + "<|assistant|>"
    assert KnownPrefixes(tokenizer).encode(text) == tokenizer.encode(text)


def test_what_is_remembered_is_bounded() -> None:
    prefixes = KnownPrefixes(BYTES)
    for number in range(2 * MAX_REMEMBERED):
        prefixes.encode(f"<|user|>{number}" + "x" * (MAX_CHARS // 8) + "<|assistant|>")
    assert len(prefixes._ids) <= 8
    assert prefixes._num_chars == sum(map(len, prefixes._ids)) <= MAX_CHARS
