"""The device answers when the cloud does not: from the beginning, or from where it broke off."""

import pytest
from tests.fakes import ask, fake_engine, fake_model, text_of

from autoglm.engine.breaker import Breaker, RetryBudget
from autoglm.engine.failover import FailoverEngine
from autoglm.errors import CloudError, InvalidRequestError, PrivacyError
from autoglm.types import Chunk, Usage

ANSWER = "one two three four"


class Cloud:
    """An engine that says `num_words` words and then fails, or ends well."""

    def __init__(self, num_words=4, error=None):
        self.num_words, self.error, self.num_requests = num_words, error, 0

    def stream(self, request):
        self.num_requests += 1
        for word in ("one", " two", " three", " four")[: self.num_words]:
            yield Chunk(word, tuple(word.encode()))
        if self.error is not None:
            raise self.error
        yield Chunk("", finish_reason="stop", usage=Usage(3, len(ANSWER)))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def answer(prompt, _sampling):
    """Goes on with the known answer, wherever it stands."""
    said = prompt.partition("?")[2].lstrip()
    return ANSWER.removeprefix(said) if ANSWER.startswith(said) else ANSWER


def engine(cloud, breaker=None):
    local = fake_engine(fake_model(answer))
    return FailoverEngine(
        cloud, local, breaker or Breaker(), cloud_model="large", local_model="small"
    )


def result_of(chunks):
    return chunks[-1].result


def test_cloud_answers_while_it_can():
    chunks = list(engine(Cloud()).stream(ask("?")))
    result = result_of(chunks)
    assert text_of(chunks) == result.text == ANSWER
    assert (result.route.engine, result.route.model) == ("cloud", "large")


def test_failure_before_the_first_token_is_answered_on_the_device():
    failing = engine(Cloud(0, CloudError("no route")))
    chunks = list(failing.stream(ask("?")))
    result = result_of(chunks)
    assert text_of(chunks) == result.text == ANSWER
    assert (result.route.engine, result.route.model) == ("local", "small")
    assert "no route" in result.route.reason


@pytest.mark.parametrize("num_words", [1, 2, 3])
def test_failure_after_a_token_is_continued_on_the_device(num_words):
    failing = engine(Cloud(num_words, CloudError("cut")))
    chunks = list(failing.stream(ask("?")))
    result = result_of(chunks)
    assert text_of(chunks) == result.text == ANSWER
    assert result.route.engine == "local"
    assert "broke off after" in result.route.reason
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_tokens_of_the_cloud_count_against_the_limit():
    failing = engine(Cloud(2, CloudError("cut")))
    result = result_of(list(failing.stream(ask("?", max_tokens=9))))
    assert (result.text, result.finish_reason) == (ANSWER[:9], "length")


def test_text_too_long_for_the_device_is_an_error_and_no_short_answer():
    failing = engine(Cloud(1, CloudError("cut")))
    with pytest.raises(CloudError, match="too long for the device"):
        list(failing.stream(ask("x" * 2000 + "?")))


def test_request_the_wire_does_not_carry_stays_here_and_opens_nothing():
    breaker = Breaker()
    cloud = Cloud(0, InvalidRequestError("only messages"))
    chunks = list(engine(cloud, breaker).stream(ask("?")))
    assert result_of(chunks).route.engine == "local"
    assert not breaker.is_open


def test_request_that_may_not_leave_stays_here_and_the_route_says_so():
    breaker = Breaker()
    cloud = Cloud(0, PrivacyError("a text holds data of class plate"))
    result = result_of(list(engine(cloud, breaker).stream(ask("?"))))
    assert result.route.engine == "local"
    assert "class plate" in result.route.reason
    assert not breaker.is_open


def test_open_breaker_spares_the_cloud_and_closes_after_it_is_back():
    clock = Clock()
    breaker = Breaker(open_s=10, now=clock)
    cloud = Cloud(0, CloudError("away"))
    failing = engine(cloud, breaker)
    for _ in range(50):
        assert result_of(list(failing.stream(ask("?")))).text == ANSWER
        clock.now += 0.1
    assert (cloud.num_requests, breaker.is_open) == (1, True)
    cloud.num_words, cloud.error = 4, None
    clock.now = 10.5
    assert result_of(list(failing.stream(ask("?")))).route.engine == "cloud"
    assert not breaker.is_open


def test_open_breaker_lets_one_request_through_at_a_time():
    clock = Clock()
    breaker = Breaker(open_s=10, now=clock)
    breaker.failed()
    clock.now = 11
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_retries_stay_under_a_tenth_of_the_requests():
    budget = RetryBudget()
    retries = 0
    for _ in range(1000):
        budget.earn()
        retries += budget.take()
    assert retries <= 101
