"""The cache key covers all an answer depends on (vary one: a miss), and the cache is bounded."""

from dataclasses import fields, replace
from typing import Any

import pytest

from autoglm.engine.answer_cache import Answer, AnswerCache
from autoglm.types import Grammar, Message, Request, SamplingParams, Tool, ToolCall, Usage

BASE = Request(
    messages=(Message("user", "Summarise"),),
    text="A: b",
    max_tokens=10,
    sampling=SamplingParams(seed=1),
    stop=("END",),
    schema={"type": "object"},
)
MODEL = {"model": b"one", "context_tokens": 100, "max_tokens": 10}

OTHER_REQUESTS: dict[str, Any] = {
    "messages": (Message("user", "Summarize"),),
    "messages call": (
        Message("assistant", "", (ToolCall("look", "{}"),)),
        Message("user", "Summarise"),
    ),
    "messages role": (Message("system", "x"), Message("user", "Summarise")),
    "text": "A: c",
    "text none": None,
    "stop": ("END", "STOP"),
    "stop none": (),
    "schema": {"type": "array"},
    "schema none": None,
    "grammar": Grammar("regex", "a+"),
    "tools": (Tool("look", "", "{}"),),
    "tool_choice": "none",
    "is_parallel": False,
}
OTHER_SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 0.5,
    "min_p": 0.5,
    "repetition_penalty": 1.5,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 2,
    "logit_bias": {1: 0.5},
    "ignore_eos": True,
    "num_logprobs": 2,
}


def key(cache: AnswerCache, request: Request, **changes: Any) -> bytes:
    return cache.key(request, **MODEL | changes)


def answer(text: str) -> Answer:
    return Answer(text, "stop", Usage(1, 1), 1)


@pytest.mark.parametrize("name", OTHER_REQUESTS)
def test_a_change_of_the_request_is_a_miss(name: str) -> None:
    cache = AnswerCache(10_000)
    cache.put(key(cache, BASE), answer("x"))
    base = replace(BASE, schema=None) if name in ("grammar", "tools") else BASE
    changed = replace(base, **{name.split()[0]: OTHER_REQUESTS[name]})
    assert cache.get(key(cache, changed)) is None
    assert cache.get(key(cache, replace(BASE))) == answer("x")


@pytest.mark.parametrize("field", [field.name for field in fields(SamplingParams)])
def test_a_change_of_any_sampling_parameter_is_a_miss(field: str) -> None:
    cache = AnswerCache(10_000)
    sampling = replace(BASE.sampling, **{field: OTHER_SAMPLING[field]})
    assert key(cache, BASE) != key(cache, replace(BASE, sampling=sampling))


@pytest.mark.parametrize(
    "change", [{"model": b"two"}, {"context_tokens": 99}, {"max_tokens": 9}], ids=str
)
def test_a_change_of_model_or_limits_is_a_miss(change: dict[str, Any]) -> None:
    cache = AnswerCache(10_000)
    assert key(cache, BASE) != key(cache, BASE, **change)


def test_another_prompt_to_continue_is_a_miss() -> None:
    cache = AnswerCache(10_000)
    keys = {key(cache, Request(prompt=prompt)) for prompt in ("a", "b", (1, 2), (1, 3))}
    assert len(keys) == 4


def test_no_field_of_a_request_is_left_out_of_the_key() -> None:
    covered = {name.split()[0] for name in OTHER_REQUESTS} | {"sampling", "max_tokens", "prompt"}
    assert {field.name for field in fields(Request)} - covered == {"cancellation"}


def test_text_moved_from_prompt_to_document_is_a_miss() -> None:
    cache = AnswerCache(10_000)
    one = Request(messages=(Message("user", "ab"),), text="c")
    two = Request(messages=(Message("user", "a"),), text="bc")
    assert key(cache, one) != key(cache, two)


def test_keys_reveal_nothing_outside_their_cache() -> None:
    assert key(AnswerCache(10), BASE) != key(AnswerCache(10), BASE)


def test_least_recently_used_answer_goes_first() -> None:
    cache = AnswerCache(3 * 600)
    for name in (b"a", b"b", b"c"):
        cache.put(name, answer(name.decode()))
    cache.get(b"a")
    cache.put(b"d", answer("d"))
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]


def test_an_answer_larger_than_the_cache_is_not_kept_and_evicts_nothing() -> None:
    cache = AnswerCache(1200)
    cache.put(b"a", answer("a"))
    cache.put(b"b", answer("b" * 1000))
    assert cache.get(b"a") is not None
    assert cache.get(b"b") is None


def test_storing_a_key_again_counts_its_bytes_once() -> None:
    cache = AnswerCache(2 * 600)
    cache.put(b"a", answer("a"))
    for _ in range(10):
        cache.put(b"b", answer("b"))
    assert cache.get(b"a") is not None
