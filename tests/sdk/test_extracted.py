"""Answers that are extracted: the route says so, limits hold, and the setting leaves them out."""

from pathlib import Path

import pytest

from autoglm.config import Settings
from autoglm.runtime import Runtime
from autoglm.types import Message, Request

MEETING = (Path(__file__).parents[2] / "examples/meeting_en.txt").read_text()


def summary_request(**options) -> Request:
    return Request(messages=(Message("user", "Summarize this meeting"),), text=MEETING, **options)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime(Settings(threads=1))


def last(runtime: Runtime, request: Request):
    *_, chunk = runtime.stream(request)
    return chunk.result


def test_a_summary_is_marked_as_extracted_and_repeats_from_the_cache(runtime):
    result = last(runtime, summary_request())
    assert result.route.is_extracted
    assert result.route.reason == "offline; extracted from the text"
    assert result.finish_reason == "stop"
    assert result.usage.prompt_tokens > result.usage.completion_tokens > 20
    again = last(runtime, summary_request())
    assert again.route.cached
    assert again.route.is_extracted
    assert again.text == result.text


def test_an_extract_keeps_to_the_token_limit_and_to_stop_strings(runtime):
    whole = last(runtime, summary_request()).text
    cut = last(runtime, summary_request(max_tokens=7))
    assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", 7)
    assert whole.startswith(cut.text)
    stopped = last(runtime, summary_request(stop=("\n",)))
    assert stopped.text == whole.split("\n")[0]


def test_what_the_reader_does_not_know_is_written_by_the_model(runtime):
    request = Request(messages=(Message("user", "Write a poem"),), text=MEETING, max_tokens=3)
    assert not last(runtime, request).route.is_extracted


def test_the_reader_can_be_turned_off():
    runtime = Runtime(Settings(threads=1, reader=False))
    assert not last(runtime, summary_request(max_tokens=3)).route.is_extracted
