"""Probes tell whether the cloud can be reached, and requests do not wait for them."""

import threading

from tests.fakes import ask, fake_engine, fake_model

from autoglm.engine.breaker import Breaker
from autoglm.engine.failover import FailoverEngine
from autoglm.engine.reachability import FRESH_S, RETRY_S, Reachability
from autoglm.protocol.channel import UnreachableError
from autoglm.types import Chunk, Usage


class Way:
    """A network that a test cuts and mends, and a clock."""

    def __init__(self):
        self.now, self.is_cut, self.num_probes = 0.0, False, 0
        self.round_trip_ms = 20.0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def probe(self):
        self.num_probes += 1
        assert self.may_answer.wait(10)
        if self.is_cut:
            raise OSError
        return self.round_trip_ms

    def reachability(self):
        return Reachability(self.probe, now=lambda: self.now)


def test_first_request_waits_for_a_probe_and_later_ones_use_it():
    way = Way()
    found = way.reachability()
    assert [found.round_trip_ms() for _ in range(5)] == [20.0] * 5
    assert way.num_probes == 1


def test_old_probe_is_repeated_beside_the_request():
    way = Way()
    found = way.reachability()
    found.round_trip_ms()
    way.may_answer.clear()
    way.now, way.is_cut = FRESH_S, True
    assert [found.round_trip_ms() for _ in range(3)] == [20.0] * 3
    way.may_answer.set()
    found.wait()
    assert (found.round_trip_ms(), way.num_probes) == (None, 2)


def test_way_that_was_lost_is_tried_again_soon():
    way = Way()
    found = way.reachability()
    found.round_trip_ms()
    found.lost()
    assert found.round_trip_ms() is None
    way.now = RETRY_S
    found.round_trip_ms()
    found.wait()
    assert found.round_trip_ms() == 20.0


class Cloud:
    """Answers, or is not there."""

    def __init__(self):
        self.num_requests, self.is_away = 0, False

    def stream(self, request):
        self.num_requests += 1
        if self.is_away:
            message = "away"
            raise UnreachableError(message)
        yield Chunk("cloud", (1,))
        yield Chunk("", finish_reason="stop", usage=Usage(1, 1))


def engine(cloud, way, clock, **options):
    return FailoverEngine(
        cloud,
        fake_engine(fake_model(lambda *_: "local")),
        Breaker(now=clock),
        cloud_model="large",
        local_model="small",
        reachability=way,
        **options,
    )


def result(engine):
    return list(engine.stream(ask("?")))[-1].result


def test_cloud_that_cannot_be_reached_is_not_asked():
    way, cloud = Way(), Cloud()
    way.is_cut = True
    told = result(engine(cloud, way.reachability(), lambda: 0.0))
    assert (told.text, told.route.reason) == ("local", "the cloud cannot be reached")
    assert cloud.num_requests == 0


def test_cloud_too_far_for_the_deadline_is_not_asked():
    way, cloud = Way(), Cloud()
    way.round_trip_ms = 400.0
    told = result(engine(cloud, way.reachability(), lambda: 0.0, timeout_s=1))
    assert (told.text, cloud.num_requests) == ("local", 0)
    assert "400 ms away" in told.route.reason


def test_every_request_of_an_outage_is_answered_and_the_cloud_again_within_30_s_after_it():
    way, cloud = Way(), Cloud()
    probes = way.reachability()
    asked = engine(cloud, probes, lambda: way.now)
    assert result(asked).text == "cloud"
    way.is_cut = cloud.is_away = True
    for _ in range(40):
        assert result(asked).text == "local"
        way.now += 0.5
        probes.wait()
    assert cloud.num_requests == 2
    way.is_cut = cloud.is_away = False
    healed = way.now
    while result(asked).text == "local":
        way.now += 0.5
        probes.wait()
    assert way.now - healed <= 30
