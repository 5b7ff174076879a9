"""Both clients: equal signatures, the builder, cancellation, threads and tasks."""

import asyncio
import inspect
import subprocess
import sys
import threading

import pytest

import autoglm
from autoglm import AsyncAutoGLMClient, AutoGLMClient, Message, ModelSize
from autoglm.errors import InvalidRequestError, UsageError
from autoglm.types import SamplingParams


def echo(prompt: str, _sampling: SamplingParams) -> str:
    return prompt.strip()


def nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("name", ["__init__", "generate", "stream", "cancel", "close", "builder"])
def test_sync_and_async_signatures_are_equal(name: str) -> None:
    sync = inspect.signature(getattr(AutoGLMClient, name))
    other = inspect.signature(getattr(AsyncAutoGLMClient, name))
    assert sync.parameters == other.parameters


def test_public_names_of_both_clients_are_equal() -> None:
    def public(client: type) -> set[str]:
        return {name for name in dir(client) if not name.startswith("_")}

    assert public(AutoGLMClient) == public(AsyncAutoGLMClient)


def test_generate_answers_about_the_text(make_client) -> None:
    with make_client(echo) as client:
        result = client.generate("总结", "张敏：好。", max_tokens=50)
    assert result.text == "总结\n\n张敏：好。"
    assert (result.usage.prompt_tokens, result.finish_reason) == (25, "stop")


def test_stream_gives_the_same_answer_in_pieces(make_client) -> None:
    client = make_client(echo)
    chunks = list(client.stream("one two three"))
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == "one two three"
    assert chunks[-1].result.text == "one two three"


def test_history_comes_before_the_prompt(make_client) -> None:
    history = [Message("user", "a"), Message("assistant", "b")]
    assert make_client(echo).generate("c", history=history).text == "a\n\nb\n\nc"


def test_sampling_options_reach_the_model(make_client) -> None:
    seen: list[SamplingParams] = []

    def answer(_prompt: str, sampling: SamplingParams) -> str:
        seen.append(sampling)
        return "ok"

    make_client(answer).generate("?", temperature=0.5, seed=3, top_k=4, top_p=0.9, min_p=0.1)
    assert seen == [SamplingParams(temperature=0.5, seed=3, top_k=4, top_p=0.9, min_p=0.1)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; expected a whole number from 1 to"),
        ({"max_tokens": -5}, "max_tokens is -5"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"min_p": 2}, "min_p is 2"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias token is -1"),
        ({"stop": [""]}, "stop takes at most 16 strings"),
        ({"stop": ["x"] * 17}, "stop takes at most 16 strings"),
        ({"stop": [1]}, "stop takes at most 16 strings"),
        ({"prompt": " "}, "prompt is empty"),
        ({"stop": 3}, "stop is of type int"),
        ({"stop": {"a"}}, "stop is of type set"),
        ({"prompt": 5}, "prompt is of type int; expected a string"),
        ({"prompt": None}, "prompt is of type NoneType"),
        ({"prompt": b"secret"}, "prompt is of type bytes"),
        ({"text": "\n"}, "text is empty"),
        ({"text": 5}, "text is of type int; expected a string"),
        ({"text": ["secret"]}, "text is of type list"),
        ({"history": "secret"}, "message of the history is of type str; expected Message"),
        ({"history": 5}, "history is of type int"),
        ({"history": [{"role": "user", "text": "secret"}]}, "history is of type dict"),
        ({"history": [Message("user", 5)]}, "content of a message is of type int"),
        ({"history": [Message("user", None)]}, "content of a message is of type NoneType"),
        ({"logit_bias": [1, 2]}, "logit_bias is of type list"),
        ({"logit_bias": {2**40: 1.0}}, "logit_bias token is 1099511627776"),
        ({"logit_bias": {"1": 1.0}}, "logit_bias token is '1'"),
        ({"logit_bias": {1: 10_001}}, r"logit_bias\[1\] is 10001; expected -10000 to 10000"),
        ({"logit_bias": {1: None}}, r"logit_bias\[1\] is None"),
        ({"ignore_eos": "no"}, "ignore_eos is of type str"),
        ({"schema": 5}, "schema is of type int"),
        ({"schema": "secret"}, "schema is of type str"),
        ({"schema": {"a": {1, 2}}}, "schema cannot be written as JSON"),
        ({"schema": {"a": float("nan")}}, "schema cannot be written as JSON"),
        ({"schema": {1: 2, "a": 3}}, "schema cannot be written as JSON"),
        ({"schema": nested(100_000)}, "schema cannot be written as JSON"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, str) else next(iter(value)),
)
def test_a_bad_argument_is_named_before_the_model_is_loaded(arguments, expected: str) -> None:
    client = AutoGLMClient("/nowhere")
    with pytest.raises(InvalidRequestError, match=expected) as caught:
        client.stream(**{"prompt": "secret"} | arguments)
    assert "secret" not in str(caught.value)


def test_builder_of_the_mobile_sdk(tmp_path) -> None:
    (tmp_path / "config.toml").write_text("max_tokens = 7")
    client = (
        AutoGLMClient.builder()
        .context(tmp_path)
        .offline(True)
        .model_size(ModelSize.LITE)
        .threads(2)
        .build()
    )
    assert isinstance(client, AutoGLMClient)
    settings = client._runtime._settings
    assert (settings.offline, settings.threads, settings.max_tokens) == (True, 2, 7)
    assert isinstance(AsyncAutoGLMClient.builder().build(), AsyncAutoGLMClient)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": -1},
        {"offline": False},
        {"model_size": "huge"},
        {"context": object()},
        {"model": 5},
    ],
)
def test_bad_client_options_are_usage_errors(options) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        AutoGLMClient(**options)


def test_cancel_from_another_thread_ends_a_running_request(make_client) -> None:
    client = make_client(lambda *_: "x" * 5000)
    chunks = client.stream("?", max_tokens=300, ignore_eos=True)
    next(chunks)
    thread = threading.Thread(target=client.cancel)
    thread.start()
    thread.join()
    assert next(chunks).finish_reason == "cancelled"


def test_requests_after_a_cancel_are_not_affected(make_client) -> None:
    client = make_client(echo)
    client.cancel()
    assert client.generate("one").text == "one"


def test_leaving_the_context_closes_the_client(make_client) -> None:
    with make_client(echo) as client:
        pass
    with pytest.raises(UsageError, match="closed"):
        client.generate("?")


def test_one_client_serves_many_threads(make_client) -> None:
    client = make_client(echo)
    answers: dict[int, list[str]] = {}

    def work(number: int) -> None:
        answers[number] = [client.generate(f"{number} {turn}").text for turn in range(10)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: [f"{n} {turn}" for turn in range(10)] for n in range(8)}


async def test_async_generate_and_stream_give_the_same_answer(make_client) -> None:
    async with make_client(echo, AsyncAutoGLMClient) as client:
        result = await client.generate("one two")
        chunks = [chunk async for chunk in client.stream("one two", max_tokens=40)]
    assert result.text == "one two"
    assert "".join(chunk.text for chunk in chunks) == "one two"


async def test_tasks_of_one_client_run_side_by_side(make_client) -> None:
    client = make_client(echo, AsyncAutoGLMClient)
    results = await asyncio.gather(*(client.generate(str(n)) for n in range(12)))
    assert [result.text for result in results] == [str(n) for n in range(12)]


async def test_cancelling_a_task_cancels_its_request_and_waits_for_it(make_client) -> None:
    has_begun, may_go_on = threading.Event(), threading.Event()

    def answer(_prompt: str, _sampling: SamplingParams) -> str:
        has_begun.set()
        may_go_on.wait()
        return "ok"

    client = make_client(answer, AsyncAutoGLMClient)
    task = asyncio.create_task(client.generate("?"))
    await asyncio.to_thread(has_begun.wait)
    (cancellation,) = client._running
    is_cancelled = threading.Event()
    with cancellation.attached(is_cancelled.set):
        task.cancel()
        await asyncio.to_thread(is_cancelled.wait)
    assert not task.done(), "it waits for the thread"
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client._running == set()
    assert (await client.generate("?")).text == "ok"


async def test_leaving_an_async_stream_early_ends_the_request(make_client) -> None:
    client = make_client(lambda *_: "x" * 300, AsyncAutoGLMClient)
    chunks = client.stream("?")
    await anext(chunks)
    assert len(client._running) == 1
    await chunks.aclose()
    assert client._running == set()


def test_all_public_names_resolve_and_unknown_ones_are_attribute_errors() -> None:
    assert all(getattr(autoglm, name) is not None for name in autoglm.__all__)
    assert set(autoglm._HOMES) == set(autoglm.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = autoglm.nothing


def test_import_loads_no_heavy_module() -> None:
    code = (
        "import sys; before = set(sys.modules); import autoglm; print(*(set(sys.modules) - before))"
    )
    out = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path!r}; {code}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    loaded = set(out.split())
    assert "autoglm" in loaded
    heavy = {"numpy", "typing", "dataclasses", "inspect", "asyncio", "json", "tokenizers"}
    assert loaded & heavy == set()
    assert {name for name in loaded if name.startswith("autoglm.")} == set()
