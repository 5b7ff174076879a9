"""Placeholders are put back however a model writes them, also when a stream cuts them."""

import hashlib

import pii_corpus
import pytest

from autoglm.privacy.pii.kinds import Kind
from autoglm.privacy.placeholders import Placeholders, Restorer
from autoglm.privacy.pseudonym import pseudonym

NONE_TAKEN: frozenset[tuple[str, int]] = frozenset()


@pytest.fixture
def names() -> Placeholders:
    placeholders = Placeholders()
    placeholders.name(Kind.PERSON, "李建国", NONE_TAKEN)
    placeholders.name(Kind.BANK_CARD, "6222 0212", NONE_TAKEN)
    return placeholders


@pytest.mark.parametrize(
    "written",
    ["[PERSON_1]", "[person_1]", "【PERSON_1】", "[ PERSON_1 ]", "[PERSON 1]", "(PERSON_1)"],
)
def test_spellings_of_models_are_understood(names, written):
    assert names.restore(f"通知{written}。") == "通知李建国。"


def test_unknown_placeholder_stays(names):
    assert names.restore("[PERSON_2] [BANK_CARD_1]") == "[PERSON_2] 6222 0212"


def test_stream_cut_at_every_place_gives_the_same_text(names):
    text = "给[PERSON_1]的卡[BANK_CARD_1]，见[1]和[注]"
    whole = names.restore(text)
    for step in range(1, len(text) + 1):
        restorer = Restorer(names)
        pieces = [restorer.feed(text[at : at + step]) for at in range(0, len(text), step)]
        assert "".join([*pieces, restorer.finish()]) == whole


def test_stream_holds_back_no_more_than_a_placeholder_may_be_long(names):
    restorer = Restorer(names)
    assert len(restorer.feed("[" + "x" * 100)) >= 60


def test_enumerating_numbers_without_the_key_finds_no_pseudonym(scale):
    """A bare hash, the control, is found."""
    known = range(13_900_000_000, 13_900_000_000 + 50_000 * scale)
    target = pseudonym(bytes(range(32)), "mobile", "13900012345")
    bare = hashlib.sha256(b"13900012345").hexdigest()
    assert any(hashlib.sha256(b"%d" % number).hexdigest() == bare for number in known)
    assert not any(pseudonym(b"", "mobile", str(number)) == target for number in known)


def test_pseudonym_is_the_same_for_every_spelling_and_other_for_other_kinds():
    key = bytes(32)
    wide = "13900138888".translate(pii_corpus.FULL_WIDTH)
    spellings = ("13900138888", "139 0013 8888", "139-0013-8888", wide)
    assert len({pseudonym(key, "mobile", each) for each in spellings}) == 1
    assert pseudonym(key, "mobile", "1") != pseudonym(key, "cn_id", "1")
