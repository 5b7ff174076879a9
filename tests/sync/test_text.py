"""Merging texts: nothing is lost, both sides give the same, differences apply back."""

from hypothesis import given
from hypothesis import strategies as st

from autoglm.sync.text import diff, merge, splice, tokens, union
from autoglm.sync.texts import apply_edit, make_edit

TEXTS = st.lists(st.sampled_from(["a", "b", "cc", " ", "\n", "会", "议", ",", "word"])).map("".join)


@given(TEXTS, TEXTS)
def test_difference_applied_to_the_old_text_gives_the_new(old, new):
    assert apply_edit(old, make_edit(old, new)) == new
    start, removed, inserted = splice(old, new)
    assert old[:start] + inserted + old[start + removed :] == new


@given(TEXTS, TEXTS)
def test_hunks_are_apart_and_turn_one_into_the_other(old, new):
    a, b = tokens(old), tokens(new)
    out, position = [], 0
    for hunk in diff(a, b):
        assert hunk.start >= position
        out += [*a[position : hunk.start], *hunk.new]
        position = hunk.end
    assert "".join(out + a[position:]) == new


@given(TEXTS, TEXTS)
def test_merge_with_an_unchanged_side_is_the_other_side(base, changed):
    assert merge(base, changed, base) == merge(base, base, changed) == changed
    assert merge(base, changed, changed) == changed


@given(TEXTS, st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=6))
def test_every_inserted_word_survives_a_merge(base, places):
    units = tokens(base)
    sides = [list(units), list(units)]
    words = []
    for n, (place, is_second) in enumerate(places):
        words.append(f"<{n}>")
        side = sides[is_second]
        side.insert(min(place, len(side)), words[-1])
    merged = merge(base, "".join(sides[0]), "".join(sides[1]))
    assert all(word[1:-1] in merged for word in words)


@given(TEXTS, TEXTS)
def test_union_holds_every_unit_of_both(first, second):
    both = tokens(union(first, second))
    for unit in {*tokens(first), *tokens(second)} - {" ", "\n"}:
        assert unit in "".join(both)


def test_edits_at_different_places_merge_cleanly():
    base = "会议定于周三。地点一号楼。"
    first = "会议定于周四。地点一号楼。"
    second = "会议定于周三。地点二号楼。"
    assert merge(base, first, second) == "会议定于周四。地点二号楼。"


def test_edit_wins_over_removal_of_the_same_words():
    assert "new" in merge("keep old end", "keep new end", "keep end")
