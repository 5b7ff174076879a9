"""The pool of the KV cache: who waits, in which order, and what ends the waiting."""

import threading
from collections.abc import Callable

import pytest

from autoglm.engine.token_pool import TokenPool
from autoglm.errors import CancelledError, ResourceError
from autoglm.types import Cancellation


class Waiters:
    """Threads that reserve from a pool; `start` returns once the thread waits."""

    def __init__(self, pool: TokenPool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool = pool
        self.order: list[str] = []
        self.threads: list[threading.Thread] = []
        self._waits = threading.Event()
        real = pool._changed.wait

        def wait(timeout: float) -> bool:
            self._waits.set()
            return real(timeout)

        monkeypatch.setattr(pool._changed, "wait", wait)

    def start(self, name: str, num_tokens: int, cancellation: Cancellation | None = None) -> None:
        def work() -> None:
            try:
                with self.pool.reserved(num_tokens, cancellation or Cancellation()):
                    self.order.append(name)
            except CancelledError:
                self.order.append(f"{name} cancelled")

        self._waits.clear()
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        self._waits.wait()

    def join(self) -> None:
        for thread in self.threads:
            thread.join()


@pytest.fixture
def make_waiters(monkeypatch: pytest.MonkeyPatch) -> Callable[[TokenPool], Waiters]:
    return lambda pool: Waiters(pool, monkeypatch)


def test_a_small_request_does_not_overtake_a_large_one(make_waiters) -> None:
    waiters = make_waiters(TokenPool(10))
    with waiters.pool.reserved(8, Cancellation()):
        waiters.start("large", 9)
        waiters.start("small", 2)
        assert waiters.order == []
    waiters.join()
    assert waiters.order == ["large", "small"]


def test_who_gives_up_lets_the_next_one_pass(make_waiters) -> None:
    waiters = make_waiters(TokenPool(10))
    cancellation = Cancellation()
    with waiters.pool.reserved(8, Cancellation()):
        waiters.start("large", 9, cancellation)
        waiters.start("small", 1)
        cancellation.cancel()
        waiters.join()
    assert sorted(waiters.order) == ["large cancelled", "small"]


def test_waiting_for_an_open_stream_ends_in_a_resource_error() -> None:
    pool = TokenPool(10, patience_s=0.01)
    with (
        pool.reserved(8, Cancellation()),
        pytest.raises(ResourceError, match="room for 2 more tokens and the request needs 5"),
        pool.reserved(5, Cancellation()),
    ):
        pass


def test_what_was_reserved_comes_back() -> None:
    pool = TokenPool(10, patience_s=0.01)
    for _ in range(3):
        with pool.reserved(10, Cancellation()):
            pass
