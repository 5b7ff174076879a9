"""Clients that people have, unmodified, against the service."""

from collections.abc import Iterator
from contextlib import contextmanager

import ollama
import openai
import pytest

MESSAGES = [{"role": "user", "content": "Say hello to Ann."}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_openai_lists_models(client) -> None:
    assert [model.id for model in client.models.list()] == ["lite"]
    assert client.models.retrieve("lite").id == "lite"


def test_openai_chats_whole_and_streamed(client) -> None:
    whole = client.chat.completions.create(model="lite", messages=MESSAGES, max_tokens=12)
    text = ""
    with client.chat.completions.create(
        model="lite",
        messages=MESSAGES,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for event in stream:
            if event.choices:
                text += event.choices[0].delta.content or ""
            else:
                assert event.usage.total_tokens == whole.usage.total_tokens
    assert text == whole.choices[0].message.content


async def test_openai_async_streams(server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model="lite", messages=MESSAGES, max_tokens=6, stream=True
        )
        finishes = [event.choices[0].finish_reason async for event in stream]
    assert finishes[-1] in ("stop", "length")


def test_openai_completes_and_embeds(client) -> None:
    answer = client.completions.create(model="lite", prompt="Ann said", max_tokens=4, logprobs=1)
    assert len(answer.choices[0].logprobs.token_logprobs) == 4
    data = client.embeddings.create(model="lite", input=["a b", "c"]).data
    assert [item.index for item in data] == [0, 1]
    assert len(data[0].embedding) == len(data[1].embedding) > 16


def test_openai_raises_its_own_errors(client) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="lite", messages=MESSAGES, top_p=3)
    assert caught.value.param == "top_p"


@contextmanager
def ollama_client(url: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=url)
    try:
        yield client
    finally:
        client.close()


def test_ollama_chats_generates_and_embeds(server) -> None:
    with ollama_client(server.url) as client:
        check_ollama(client)


def check_ollama(client: ollama.Client) -> None:
    assert client.list().models[0].model == "lite:latest"
    options = {"num_predict": 8, "temperature": 0}
    whole = client.chat("lite", MESSAGES, options=options)
    parts = list(client.chat("lite", MESSAGES, options=options, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert parts[-1].done and parts[-1].eval_count == whole.eval_count
    assert client.generate("lite", "Hello", options=options).response
    raw = client.generate("lite", "Ann: Hello Bob. Bob:", raw=True, options=options)
    assert raw.eval_count <= 8
    assert len(client.embed("lite", ["a b", "c"]).embeddings) == 2
    assert client.show("lite").details.quantization_level == "int8"
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate("nobody", "Hello")
    assert caught.value.status_code == 404


def test_ollama_loads_keeps_and_unloads(tiny_server) -> None:
    with ollama_client(tiny_server.url) as client:
        name = client.list().models[0].model
        client.generate(name, keep_alive="10m")
        assert [model.model for model in client.ps().models] == [name]
        client.generate(name, keep_alive=0)
        assert client.ps().models == []
        assert client.generate(name, "Hello", options={"num_predict": 1}).eval_count == 1
