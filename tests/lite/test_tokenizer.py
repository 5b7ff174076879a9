"""The tokenizer loses nothing and treats digits and special tokens as promised."""

from tokenizers import Tokenizer

from autoglm.lite.tokenizer import SPECIALS


def test_any_text_round_trips(tokenizer_file):
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    text = "第3次会议\n\n  Ünïcode 🎉\t“好”\r\n don't"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_every_digit_is_a_token(tokenizer_file):
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    assert [tokenizer.decode([i]) for i in tokenizer.encode("2026").ids] == ["2", "0", "2", "6"]


def test_special_tokens_have_the_first_ids(tokenizer_file):
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    assert [tokenizer.token_to_id(token) for token in SPECIALS] == list(range(len(SPECIALS)))
