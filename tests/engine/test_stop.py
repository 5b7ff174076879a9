"""Stop strings: any cut into pieces gives the text up to the first one."""

from hypothesis import given
from hypothesis import strategies as st

from autoglm.engine.stop import StopMatcher


def run(stop: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stop)
    text = ""
    for piece in pieces:
        text += matcher.push(piece)
        if matcher.is_stopped:
            return text, True
    return text + matcher.flush(), False


@given(
    st.lists(st.text(alphabet="ab。", min_size=1, max_size=4), max_size=3),
    st.lists(st.text(alphabet="ab。", max_size=5), max_size=20),
)
def test_any_stop_string_ends_the_text_before_itself(stop: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    cut, is_stopped = run(stop, pieces)
    assert is_stopped is any(s in text for s in stop)
    assert text.startswith(cut)
    assert not any(s in cut for s in stop)


def test_possible_start_of_a_stop_string_is_held_back_then_released() -> None:
    matcher = StopMatcher(["。。。"])
    assert matcher.push("好。。") == "好"
    assert matcher.push("吗") == "。。吗"
    assert not matcher.is_stopped


def test_text_after_the_stop_string_is_dropped() -> None:
    assert run(["END"], ["one E", "N", "D two"]) == ("one ", True)


def test_without_stop_strings_nothing_is_held() -> None:
    assert StopMatcher([]).push("abc") == "abc"
