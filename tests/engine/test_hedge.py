"""A slow cloud is raced by the device, rarely, and the answer is always one of theirs, whole."""

import threading

import pytest
from tests.fakes import ask, fake_engine, fake_model, text_of

from autoglm.engine.breaker import Breaker, RetryBudget
from autoglm.engine.failover import FailoverEngine
from autoglm.engine.hedge import Hedge
from autoglm.errors import CloudError
from autoglm.types import Chunk, Usage


class Cloud:
    """Says two words once it may; notices when nobody wants them any more."""

    def __init__(self, error=None):
        self.may_speak, self.error = threading.Event(), error
        self.was_cancelled = threading.Event()

    def stream(self, request):
        with request.cancellation.attached(self.was_cancelled.set):
            assert self.may_speak.wait(10)
            if self.error is not None:
                raise self.error
            yield Chunk("from the", (1,))
            yield Chunk(" cloud", (2,))
            yield Chunk("", finish_reason="stop", usage=Usage(1, 2))


def engine(cloud, *, after_s, saved=1.0, answer=lambda *_: "local"):
    return FailoverEngine(
        cloud,
        fake_engine(fake_model(answer)),
        Breaker(),
        cloud_model="large",
        local_model="small",
        hedge=Hedge(after_s, budget=RetryBudget(saved=saved, earned=0.02)),
    )


def test_fast_cloud_answers_alone():
    cloud = Cloud()
    cloud.may_speak.set()
    chunks = list(engine(cloud, after_s=10).stream(ask("?")))
    assert text_of(chunks) == chunks[-1].result.text == "from the cloud"
    assert chunks[-1].result.route.engine == "cloud"


def test_device_answers_when_the_cloud_is_silent_and_the_cloud_is_told():
    cloud = Cloud()
    chunks = list(engine(cloud, after_s=0.01).stream(ask("?")))
    assert text_of(chunks) == chunks[-1].result.text == "local"
    assert "faster than the cloud" in chunks[-1].result.route.reason
    assert cloud.was_cancelled.wait(10)
    cloud.may_speak.set()


def test_cloud_that_speaks_before_the_device_goes_on():
    cloud = Cloud()
    spoken = threading.Event()

    def slow(*_):
        cloud.may_speak.set()
        assert spoken.wait(10)
        return "local"

    tried = Cloud.stream

    def stream(self, request):
        for chunk in tried(self, request):
            yield chunk
            spoken.set()

    cloud.stream = stream.__get__(cloud)
    chunks = list(engine(cloud, after_s=0.01, answer=slow).stream(ask("?")))
    assert text_of(chunks) in ("from the cloud", "local")
    assert chunks[-1].result.text == text_of(chunks)


def test_without_budget_the_device_waits_for_the_cloud():
    cloud = Cloud()
    waiting = engine(cloud, after_s=0.01, saved=0)
    threading.Timer(0.2, cloud.may_speak.set).start()
    assert text_of(list(waiting.stream(ask("?")))) == "from the cloud"


def test_failure_of_the_cloud_is_answered_on_the_device():
    cloud = Cloud(CloudError("away"))
    cloud.may_speak.set()
    assert text_of(list(engine(cloud, after_s=10).stream(ask("?")))) == "local"


@pytest.mark.parametrize("num_requests", [100, 1000])
def test_at_most_two_of_a_hundred_requests_are_tried_twice(num_requests):
    budget, tried = RetryBudget(saved=0, earned=0.02), 0
    for _ in range(num_requests):
        budget.earn()
        tried += budget.take()
    assert tried <= 0.02 * num_requests
