"""The request path: lazy loading, long texts, the answer cache, JSON answers, closing."""

from dataclasses import replace

import pytest
from tests.fakes import ask

from autoglm.config import Settings
from autoglm.errors import ContextOverflowError, ModelNotFoundError, OutputFormatError, UsageError
from autoglm.runtime import Runtime
from autoglm.types import Cancellation, Message, Request, Result, SamplingParams

MEETING = "".join(f"Speaker{n % 3}: item {n} is done.\n" for n in range(40))


def result_of(runtime: Runtime, request: Request) -> Result:
    result = list(runtime.stream(request))[-1].result
    assert result is not None
    return result


def test_the_model_is_loaded_by_the_first_request_only(make_runtime) -> None:
    runtime, _ = make_runtime(lambda *_: "ok")
    first, second = (result_of(runtime, ask("?", max_tokens=n)) for n in (5, 6))
    assert first.timings.load_ms > 0
    assert second.timings.load_ms == 0
    assert first.timings.load_ms < first.timings.first_token_ms <= first.timings.total_ms


def test_text_of_the_chunks_is_the_text_of_the_result(make_runtime) -> None:
    runtime, _ = make_runtime(lambda *_: "一二三 four")
    chunks = list(runtime.stream(ask("?")))
    assert "".join(chunk.text for chunk in chunks) == "一二三 four"
    assert chunks[-1].result.text == "一二三 four"
    assert [chunk.result for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_a_short_text_is_one_part_and_the_route_gives_the_reason(make_runtime) -> None:
    runtime, _ = make_runtime(lambda *_: "ok")
    route = result_of(runtime, ask("List", "A: b")).route
    assert (route.engine, route.model, route.reason) == ("local", "fake", "offline")
    assert (route.num_parts, route.cached) == (1, False)


def test_a_long_text_is_read_in_parts_and_the_route_says_so(make_runtime) -> None:
    runtime, model = make_runtime(lambda *_: "ok")
    result = result_of(runtime, ask("List", MEETING))
    assert result.route.num_parts == 4
    assert "read in 4 parts" in result.route.reason
    assert len(model.prompts) == 5


def test_an_identical_request_is_answered_from_the_cache(make_runtime) -> None:
    runtime, model = make_runtime(lambda *_: "ok")
    first = result_of(runtime, ask("List", MEETING))
    num_prompts = len(model.prompts)
    second = result_of(runtime, ask("List", MEETING))
    assert len(model.prompts) == num_prompts
    assert second.route == replace(
        first.route, cached=True, reason=first.route.reason + "; answered before"
    )
    assert (second.text, second.usage) == (first.text, first.usage)


def test_a_random_request_is_never_cached(make_runtime) -> None:
    runtime, model = make_runtime(lambda *_: "ok")
    request = ask("?", sampling=SamplingParams(temperature=1.0))
    results = [result_of(runtime, request) for _ in range(2)]
    assert [result.route.cached for result in results] == [False, False]
    assert len(model.prompts) == 2


def test_a_seeded_request_is_cached(make_runtime) -> None:
    runtime, _ = make_runtime(lambda *_: "ok")
    request = ask("?", sampling=SamplingParams(temperature=1.0, seed=1))
    assert [result_of(runtime, request).route.cached for _ in range(2)] == [False, True]


@pytest.fixture
def unbound(monkeypatch) -> None:
    """Without the extra `grammar` the model writes what it likes."""
    monkeypatch.setattr("autoglm.engine.local.is_available", lambda: False)


@pytest.mark.usefixtures("unbound")
def test_a_cancelled_answer_is_not_cached_and_says_cancelled(make_runtime) -> None:
    cancellation = Cancellation()

    def answer(_prompt: str, _sampling: SamplingParams) -> str:
        cancellation.cancel()
        return "ok"

    runtime, _ = make_runtime(answer)
    cancelled = result_of(runtime, ask("?", cancellation=cancellation, schema={}))
    assert (cancelled.text, cancelled.finish_reason, cancelled.data) == ("", "cancelled", None)
    assert result_of(runtime, ask("?", schema=None)).route.cached is False


def test_cache_of_size_zero_keeps_nothing(make_runtime) -> None:
    runtime, model = make_runtime(lambda *_: "ok", cache_mib=0)
    for _ in range(2):
        result_of(runtime, ask("?"))
    assert len(model.prompts) == 2


@pytest.mark.usefixtures("unbound")
@pytest.mark.parametrize("answer", ['{"a": [1]}', '```json\n{"a": [1]}\n```', ' {"a":[1]}\n'])
def test_with_a_schema_the_parsed_answer_is_in_data(make_runtime, answer: str) -> None:
    runtime, model = make_runtime(lambda *_: answer)
    assert result_of(runtime, ask("?", schema={"type": "object"})).data == {"a": [1]}
    assert b'{"type": "object"}' in bytes_of(model.prompts[0])


def bytes_of(ids: list[int]) -> bytes:
    from tests.fakes import BYTES

    return BYTES.decode(ids).encode()


@pytest.mark.usefixtures("unbound")
def test_an_answer_that_is_not_json_is_an_error_with_a_schema_only(make_runtime) -> None:
    runtime, _ = make_runtime(lambda *_: "secret words")
    assert result_of(runtime, ask("?")).data is None
    with pytest.raises(OutputFormatError, match="not JSON") as caught:
        result_of(runtime, ask("?", schema={}))
    assert "secret" not in str(caught.value)


def test_a_long_prompt_without_a_text_is_refused(make_runtime) -> None:
    runtime, _ = make_runtime(lambda *_: "ok")
    with pytest.raises(ContextOverflowError):
        result_of(runtime, ask("x" * 500))


def test_a_conversation_reaches_the_model_in_order(make_runtime) -> None:
    runtime, model = make_runtime(lambda *_: "ok")
    turns = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    result_of(runtime, Request(messages=turns))
    assert bytes_of(model.prompts[0]) == b"one\n\ntwo\n\nthree\n\n"


def test_requests_after_close_are_usage_errors(make_runtime) -> None:
    runtime, _ = make_runtime(lambda *_: "ok")
    runtime.close()
    with pytest.raises(UsageError, match="closed"):
        result_of(runtime, ask("?"))


def test_without_credentials_only_offline_is_accepted(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"offline is false: .* autoglm cloud enrol"):
        Runtime(Settings(offline=False))


class Away:
    """A cloud that is not there: the device answers."""

    def __init__(self, device) -> None:
        self._device = device

    def stream(self, request):
        return self._device.stream(request)


def test_answer_of_the_device_behind_the_cloud_may_have_parts(make_runtime) -> None:
    runtime, _ = make_runtime(lambda *_: "ok", connect=lambda _, device: Away(device))
    result = result_of(runtime, ask("List", MEETING))
    assert (result.text, result.route.num_parts) == ("ok", 4)
    assert "answered on this device" in result.route.reason


def test_an_unknown_model_directory_is_named(tmp_path) -> None:
    runtime = Runtime(Settings(model=str(tmp_path / "absent")))
    with pytest.raises(ModelNotFoundError, match="absent"):
        result_of(runtime, ask("?"))
