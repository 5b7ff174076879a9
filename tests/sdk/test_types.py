"""Cancellation reaches whatever is attached, once, whenever it comes."""

from types import MappingProxyType

import pytest

from autoglm.errors import InvalidRequestError
from autoglm.types import Cancellation, Message, Request, SamplingParams, Usage


def test_callbacks_are_called_once_while_attached() -> None:
    calls: list[str] = []
    cancellation = Cancellation()
    with cancellation.attached(lambda: calls.append("before")):
        pass
    with (
        cancellation.attached(lambda: calls.append("one")),
        cancellation.attached(lambda: calls.append("two")),
    ):
        cancellation.cancel()
        cancellation.cancel()
    assert calls == ["one", "two"]
    assert cancellation.is_cancelled


def test_a_callback_attached_too_late_is_called_at_once() -> None:
    calls: list[str] = []
    cancellation = Cancellation()
    cancellation.cancel()
    with cancellation.attached(lambda: calls.append("late")):
        assert calls == ["late"]


@pytest.mark.parametrize("role", ["bot", "user|><|system", "", 1])
def test_a_role_that_templates_do_not_know_is_refused(role) -> None:
    with pytest.raises(InvalidRequestError, match="role is none of system, user, assistant"):
        Request(messages=(Message(role, "x"), Message("user", "x")))


@pytest.mark.parametrize("roles", [(), ("user", "assistant"), ("system",)])
def test_a_request_ends_with_the_users_message(roles) -> None:
    with pytest.raises(InvalidRequestError, match="must be the user's"):
        Request(messages=tuple(Message(role, "x") for role in roles))


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20) == Usage(11, 22, 3)


def test_a_bias_may_be_any_mapping_and_is_copied() -> None:
    biases = {1: 0.5}
    params = SamplingParams(logit_bias=MappingProxyType(biases))
    biases[2] = 1.0
    assert params.logit_bias == {1: 0.5}
