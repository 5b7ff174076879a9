"""Parts of a long text: complete, in order, within the budget, cut at speaker turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm.engine import split
from autoglm.engine.split import split_text

TURNS = st.lists(
    st.tuples(st.sampled_from(["张敏：", "李强: ", "Ann Lee: ", ""]), st.text(max_size=80)),
    max_size=20,
).map(lambda turns: "\n".join(name + said for name, said in turns))


def count_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def count_words(text: str) -> int:
    """Fewer tokens for a joined text than for its pieces, and sometimes more."""
    return len(text.split()) + text.count("e\nA") * 3


@given(TURNS, st.integers(4, 200))
def test_parts_cover_the_text_in_order_each_within_the_budget(text: str, budget: int) -> None:
    parts = split_text(text, budget, count_bytes)
    assert "".join(parts) == text
    assert all(count_bytes(part) <= budget for part in parts)
    assert all(parts)


@given(TURNS, st.integers(1, 50))
def test_breaks_are_found_wherever_a_search_ends(text: str, num_chars: int) -> None:
    for pattern in split._BREAKS:
        expected = [piece for piece in pattern.split(text) if piece]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(split, "SEARCHED_CHARS", num_chars)
            assert [piece for piece in split._cut(text, pattern) if piece] == expected


@given(TURNS, st.integers(4, 60))
def test_joined_parts_stay_within_the_budget_when_counts_do_not_add_up(
    text: str, budget: int
) -> None:
    parts = split_text(text, budget, count_words)
    assert "".join(parts) == text
    assert all(count_words(part) <= budget or len(part) == 1 for part in parts)


@pytest.mark.parametrize("turn", ["张敏：我来写。\n", "李强: 好的。\n", "Ann Lee: I will.\n"])
def test_cuts_fall_before_a_speaker(turn: str) -> None:
    parts = split_text(turn * 40, count_bytes(turn) * 15, count_bytes)
    assert len(parts) == 3
    assert all(part.startswith(turn) for part in parts)


def test_parts_have_about_equal_length() -> None:
    text = "甲：好。\n" * 110
    sizes = [count_bytes(part) for part in split_text(text, 500, count_bytes)]
    assert len(sizes) == 3
    assert max(sizes) < 1.2 * min(sizes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one one\n\ntwo two\n\n", ["one one\n\n", "two two\n\n"]),
        ("one one\ntwo two\n", ["one one\n", "two two\n"]),
        ("我来写。他来看。", ["我来写。", "他来看。"]),
        ("I write. He reads.", ["I write. ", "He reads."]),
        ("aaaaaaaaaaaaaaaaaa", ["aaaaaaaaa", "aaaaaaaaa"]),
    ],
)
def test_without_speakers_the_best_break_there_is_is_taken(text: str, expected: list[str]) -> None:
    assert split_text(text, max(map(count_bytes, expected)), count_bytes) == expected


def test_a_character_larger_than_the_budget_is_a_part_of_its_own() -> None:
    assert split_text("会议", 1, count_bytes) == ["会", "议"]


def test_an_empty_text_has_no_parts() -> None:
    assert split_text("", 10, count_bytes) == []


def test_a_huge_text_is_never_counted_whole() -> None:
    longest = 0

    def count(text: str) -> int:
        nonlocal longest
        longest = max(longest, len(text))
        return count_bytes(text)

    split_text("Ann: yes.\n" * 20_000, 100, count)
    assert longest <= 100 * 32
