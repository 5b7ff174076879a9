"""Clients over a fake engine, whose answers a test chooses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.fakes import fake_engine, fake_model

from autoglm.client import AsyncAutoGLMClient, AutoGLMClient
from autoglm.config import Settings
from autoglm.engine.fake import FakeModel
from autoglm.runtime import Runtime
from autoglm.types import SamplingParams

AnswerFunction = Callable[[str, SamplingParams], str]
MakeRuntime = Callable[..., tuple[Runtime, FakeModel]]


@pytest.fixture
def make_runtime() -> MakeRuntime:
    """A runtime whose model answers with `answer`; also gives the model, to see its prompts."""

    def make(
        answer: AnswerFunction, *, connect: Callable | None = None, **settings: int
    ) -> tuple[Runtime, FakeModel]:
        model = fake_model(answer)
        chosen = Settings(**{"context_tokens": 400, "max_tokens": 64} | settings)

        def load(loaded: Settings) -> tuple[object, str, bytes]:
            engine = fake_engine(
                model, context_tokens=loaded.context_tokens, max_tokens=loaded.max_tokens
            )
            return engine, "fake", b"weights"

        if connect is not None:
            online = replace(chosen, offline=False)
            return Runtime(
                online, load_engine=load, load_reader=lambda _settings: None, connect=connect
            ), model
        return Runtime(chosen, load_engine=load, load_reader=lambda _settings: None), model

    return make


@pytest.fixture
def make_client(
    make_runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AutoGLMClient]:
    """A client over a fake model that answers with `answer`."""

    def make(
        answer: AnswerFunction, client: type[AutoGLMClient | AsyncAutoGLMClient] = AutoGLMClient
    ) -> AutoGLMClient | AsyncAutoGLMClient:
        runtime, _ = make_runtime(answer)
        monkeypatch.setattr("autoglm.client.Runtime", lambda _settings: runtime)
        return client()

    return make
