"""Texts longer than the window: everything is read, the answers are merged, usage is summed."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import BYTES, ask, fake_engine, fake_model, text_of

from autoglm.engine.long_text import stream_parts, text_parts
from autoglm.errors import ContextOverflowError
from autoglm.types import Cancellation, SamplingParams, Usage

TURNS = [f"Speaker{n % 3}: item {n} is done.\n" for n in range(40)]
MEETING = "".join(TURNS)


def numbers(text: str) -> str:
    return " ".join(re.findall(r"item (\d+)", text))


def test_a_text_that_fits_is_one_part() -> None:
    engine = fake_engine(fake_model(lambda *_: "ok"))
    assert text_parts(engine, ask("List", "A: b")) == ["A: b"]
    assert text_parts(engine, ask("List")) == []


def test_a_long_meeting_is_cut_at_turns_and_no_turn_is_lost() -> None:
    engine = fake_engine(fake_model(lambda *_: "ok"), context_tokens=400, max_tokens=50)
    parts = text_parts(engine, ask("List", MEETING))
    assert len(parts) == 4
    assert "".join(parts) == MEETING
    assert all(part.startswith("Speaker") for part in parts)


def test_answer_over_all_parts_contains_what_each_part_said() -> None:
    model = fake_model(lambda prompt, _: numbers(prompt) or prompt.split("\n\n")[1])
    engine = fake_engine(model, context_tokens=400, max_tokens=150)
    request = ask("List", MEETING)
    parts = text_parts(engine, request)
    chunks = list(stream_parts(engine, request, parts))
    expected = [str(n) for n in range(40)]
    assert text_of(chunks).split() == expected
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "stop"


def test_usage_is_the_sum_over_all_prompts_and_answers() -> None:
    model = fake_model(lambda *_: "ok")
    engine = fake_engine(model, context_tokens=400, max_tokens=50)
    request = ask("List", MEETING)
    parts = text_parts(engine, request)
    usage = list(stream_parts(engine, request, parts))[-1].usage
    assert len(model.prompts) == len(parts) + 1
    assert usage == Usage(sum(map(len, model.prompts)), 3 * len(model.prompts))


def test_merged_answers_that_are_too_long_are_read_in_parts_again() -> None:
    model = fake_model(lambda prompt, _: prompt)
    engine = fake_engine(model, context_tokens=200, max_tokens=50)
    request = ask("List", MEETING * 4)
    parts = text_parts(engine, request)
    chunks = list(stream_parts(engine, request, parts))
    assert chunks[-1].finish_reason == "length"
    assert len(model.prompts) > len(parts) + 2
    assert max(map(len, model.prompts)) < 200


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=3000), st.integers(80, 400))
def test_every_prompt_fits_the_window_whatever_the_text(text: str, window: int) -> None:
    model = fake_model(lambda prompt, _: prompt[-20:])
    engine = fake_engine(model, context_tokens=window, max_tokens=40)
    request = ask("List", text)
    parts = text_parts(engine, request)
    assert "".join(parts) == text
    assert list(stream_parts(engine, request, parts))[-1].finish_reason
    assert max(map(len, model.prompts)) < window


def test_cancelling_ends_the_parts_too() -> None:
    cancellation = Cancellation()

    def answer(_prompt: str, _sampling: SamplingParams) -> str:
        cancellation.cancel()
        return "ok"

    model = fake_model(answer)
    engine = fake_engine(model, context_tokens=400, max_tokens=50)
    request = ask("List", MEETING, cancellation=cancellation)
    chunks = list(stream_parts(engine, request, text_parts(engine, request)))
    assert [chunk.finish_reason for chunk in chunks] == ["cancelled"]
    assert len(model.prompts) == 1


def test_an_instruction_that_leaves_no_room_is_refused() -> None:
    engine = fake_engine(fake_model(lambda *_: "ok"), context_tokens=200)
    with pytest.raises(ContextOverflowError, match="instruction has 162 tokens"):
        text_parts(engine, ask("x" * 160, MEETING))


def test_a_text_without_tokens_to_spare_for_the_answer_is_cut() -> None:
    engine = fake_engine(fake_model(lambda *_: "ok"), context_tokens=200, max_tokens=100)
    fits = "x" * (200 - 50 - len(BYTES.encode("List\n\n\n\n")))
    assert len(text_parts(engine, ask("List", fits))) == 1
    assert len(text_parts(engine, ask("List", fits + "x"))) == 2
