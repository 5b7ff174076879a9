"""Encoding without control tokens from text, and incremental decoding at character borders."""

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import BYTES, CONTROLS, NUM_BYTES, byte_backend

from autoglm.engine.tokenizer import MAX_PENDING_TOKENS, Detokenizer, Tokenizer
from autoglm.errors import InvalidRequestError, ModelConfigError, ModelFileError

USER = NUM_BYTES + CONTROLS.index("<|user|>")


def test_control_token_in_text_is_one_id_only_when_allowed(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|user|>") == [USER]
    ids = tokenizer.encode("<|user|>", has_controls=False)
    assert len(ids) == len("<|user|>")
    assert max(ids) < NUM_BYTES


def test_control_tokens_are_left_out_of_decoded_text(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("好"), USER]
    assert tokenizer.decode(ids) == "好"
    assert tokenizer.decode(ids, has_controls=True) == "好<|user|>"


def test_lone_surrogates_are_an_invalid_request(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="surrogates"):
        tokenizer.encode("\ud800")


@given(st.text())
def test_pieces_concatenate_to_the_text_and_never_break_a_character(text: str) -> None:
    detokenizer = Detokenizer(BYTES)
    pieces = [detokenizer.push(token) for token in BYTES.encode(text, has_controls=False)]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


@given(st.lists(st.integers(0, NUM_BYTES + len(CONTROLS) - 1), max_size=60))
def test_pieces_of_any_ids_concatenate_to_their_decoding(ids: list[int]) -> None:
    detokenizer = Detokenizer(BYTES)
    text = "".join(detokenizer.push(token) for token in ids) + detokenizer.flush()
    valid = BYTES.decode(ids)
    assert text.replace("\ufffd", "") == valid.replace("\ufffd", "")


def test_a_character_that_begins_when_broken_bytes_are_given_up_is_kept() -> None:
    first, second = BYTES.encode("\u00a1", has_controls=False)
    detokenizer = Detokenizer(BYTES)
    ids = [*[second] * (MAX_PENDING_TOKENS - 1), first, second]
    assert "".join(map(detokenizer.push, ids)).endswith("\ufffd\u00a1")


def test_bytes_that_never_become_a_character_do_not_hold_back_text_for_ever(
    tokenizer: Tokenizer,
) -> None:
    detokenizer = Detokenizer(tokenizer)
    first_byte = tokenizer.encode("会")[0]
    pieces = [detokenizer.push(first_byte) for _ in range(MAX_PENDING_TOKENS)]
    assert set(pieces[-1]) == {"\ufffd"}


def test_a_tokenizer_larger_than_the_vocabulary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    byte_backend().save(str(path))
    num_tokens = NUM_BYTES + len(CONTROLS)
    assert Tokenizer.from_file(path, vocab_size=num_tokens).decode([65]) != ""
    with pytest.raises(ModelConfigError, match=f"token id {num_tokens - 1}, but the model has 256"):
        Tokenizer.from_file(path, vocab_size=256)


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_a_model_file_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(ModelFileError, match="not a tokenizer"):
        Tokenizer.from_file(path, vocab_size=256)


def test_a_missing_tokenizer_is_a_model_file_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        Tokenizer.from_file(tmp_path / "tokenizer.json", vocab_size=256)


@pytest.mark.parametrize(
    "key",
    ["continuing_subword_prefix", "continuing\\u005fsubword_prefix"],
    ids=["plain", "escaped"],
)
def test_a_subword_prefix_that_would_abort_the_process_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "tokenizer.json"
    content = byte_backend().to_str()
    path.write_text(content.replace('"continuing_subword_prefix":null', f'"{key}": "("'))
    assert path.read_text() != content
    with pytest.raises(ModelFileError, match="subword prefix"):
        Tokenizer.from_file(path, vocab_size=300)


def test_a_fault_inside_the_library_is_a_model_file_error() -> None:
    class PanicException(BaseException):
        pass

    class Broken:
        def get_added_tokens_decoder(self) -> dict[int, object]:
            return {}

        def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
            raise PanicException

    with pytest.raises(ModelFileError, match="tokenizer fails"):
        Tokenizer(Broken()).decode([1])


@pytest.mark.parametrize("ids", [[-1], [2**31], [2**70], ["1"], [1.0], [None], [True]])
def test_what_is_no_token_id_is_not_decoded(tokenizer: Tokenizer, ids: list[int]) -> None:
    with pytest.raises(InvalidRequestError, match="token id is"):
        tokenizer.decode(ids)


def test_ids_without_a_token_have_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([5000, *tokenizer.encode("会"), 2**31 - 1]) == "会"


def test_what_is_no_text_is_not_encoded(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="text is of type int"):
        tokenizer.encode(5)


def test_a_token_beyond_the_embedding_behind_a_gap_is_a_config_error(tmp_path) -> None:
    """Twelve tokens, so their number alone looks right for an embedding of twenty rows."""
    path = tmp_path / "tokenizer.json"
    vocabulary = {**{f"w{n}": n for n in range(11)}, "far": 20}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}
    pre_tokenizer = {"type": "Whitespace"}
    path.write_text(json.dumps({"model": model, "pre_tokenizer": pre_tokenizer}))
    tokenizer = Tokenizer.from_file(path, vocab_size=20)
    assert tokenizer.encode("w1 w2") == [1, 2]
    with pytest.raises(ModelConfigError, match="token id 20, but the model has 20 tokens"):
        tokenizer.encode("w1 far")


def test_long_texts_do_not_keep_others_waiting(tokenizer: Tokenizer) -> None:
    long = "ab <|user|> c " * 40_000
    expected = {flag: tokenizer.encode(long[:1400], has_controls=flag) for flag in (True, False)}
    assert expected[True] != expected[False]
    found: list[list[int]] = []
    reader = threading.Thread(
        target=lambda: found.append(tokenizer.encode(long, has_controls=True))
    )
    reader.start()
    seconds = []
    while reader.is_alive():
        start = time.perf_counter()
        assert tokenizer.encode(long[:1400], has_controls=True) == expected[True]
        seconds.append(time.perf_counter() - start)
    reader.join()
    assert found == [expected[True] * 400]
    assert len(seconds) > 5


def test_who_disagrees_about_controls_waits(tokenizer: Tokenizer) -> None:
    text = "ab <|user|> c " * 500
    expected = {flag: tokenizer.encode(text, has_controls=flag) for flag in (True, False)}
    wrong: list[bool] = []

    def encode(flag: bool) -> None:
        for _ in range(50):
            if tokenizer.encode(text, has_controls=flag) != expected[flag]:
                wrong.append(flag)

    threads = [threading.Thread(target=encode, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
