"""Devices of one user and a hub between them, without a network."""

import itertools
import random
from collections.abc import Callable

import pytest

from autoglm.sync.clock import HybridClock
from autoglm.sync.hub import MemoryHub
from autoglm.sync.records import Records
from autoglm.sync.seal import Sealer
from autoglm.sync.store import MemoryStore, Store

# That of the sealer of the tests of the wire, so that their versions share seals.
INDEX_KEY = Sealer(bytes(range(32))).index_key()


class Clock:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


@pytest.fixture
def make_records(clock) -> Callable[..., Records]:
    seeds = itertools.count()

    def make(store: Store | None = None, *, now_ms: Callable[[], int] = clock) -> Records:
        rng = random.Random(next(seeds))
        return Records(store or MemoryStore(), INDEX_KEY, clock=HybridClock(now_ms), rng=rng)

    return make


def sync(hub: MemoryHub, *devices: Records) -> None:
    """Rounds until nobody has anything to say."""
    for _ in range(2):
        for records in devices:
            while not records.receive(hub.serve(records.request(), 0)).is_idle:
                pass
