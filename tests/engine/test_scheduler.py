"""Who takes part in a pass: decodes first, short prompts before long ones, nobody starves."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest
from tests.fakes import ask, fake_engine

from autoglm.engine.base import Part, PassOutcome
from autoglm.engine.fake import FakeModel, FakeSession
from autoglm.engine.scheduler import FIRST_LOOK_S, MAX_STEP_TOKENS, MAX_UNREAD, Scheduler
from autoglm.errors import AutoGLMError, StorageError
from autoglm.types import SamplingParams


class GatedModel(FakeModel):
    """Every pass waits until the test lets it go, and is noted."""

    def __init__(self) -> None:
        super().__init__(lambda ids, _: [ids[0]] * 500)
        self.gate = threading.Semaphore(0)
        self.has_come = threading.Semaphore(0)
        self.passes: list[dict[int, int]] = []

    def run_passes(self, parts: Sequence[Part[FakeSession]], seconds: float) -> list[PassOutcome]:
        self.passes.append({part.session._prompt[0]: part.most_tokens for part in parts})
        self.has_come.release()
        self.gate.acquire()
        return super().run_passes(parts, seconds)


class Reader:
    """A thread that reads the answer to a prompt of one repeated token."""

    def __init__(self, scheduler: Scheduler, model: FakeModel, token: int, length: int) -> None:
        session = model.session(SamplingParams())
        session.append([token] * length)
        self.ids: list[int] = []
        self._thread = threading.Thread(target=self._read, args=(scheduler, session))
        self._thread.start()

    def _read(self, scheduler: Scheduler, session: FakeSession) -> None:
        for batch in scheduler.run(session, 5):
            self.ids += batch.ids

    def join(self) -> None:
        self._thread.join()


def passes_of(prompts: dict[int, int], clock: Callable[[], float]) -> list[dict[int, int]]:
    """What is computed for prompts (token: length) that come while the first is being read."""
    model = GatedModel()
    scheduler = Scheduler(model, clock=clock)
    readers = []
    for number, (token, length) in enumerate(prompts.items()):
        readers.append(Reader(scheduler, model, token, length))
        if number == 0:
            model.has_come.acquire()
        while scheduler.num_running <= number:
            pass
    model.gate.release(1000)
    for reader, token in zip(readers, prompts, strict=True):
        reader.join()
        assert reader.ids == [token] * 5
    return model.passes


def stopped() -> float:
    return 0.0


def test_prompts_are_read_beside_decodes() -> None:
    passes = passes_of({1: 3, 2: 700}, stopped)
    assert passes[0] == {1: 3}
    assert passes[1][1] == 1, "the first sequence goes on"
    assert passes[1][2] > 1, "while the second is read"


def test_a_short_prompt_overtakes_a_long_one() -> None:
    passes = passes_of({1: 1000, 2: 5000, 3: 40}, stopped)
    first = {token: [token in pass_ for pass_ in passes].index(True) for token in (2, 3)}
    assert first[3] < first[2]


def test_a_long_prompt_is_not_starved_by_short_ones() -> None:
    prompts = {1: 2000, **{token: 300 for token in range(2, 12)}}
    passes = passes_of(prompts, stopped)
    when = [number for number, pass_ in enumerate(passes) if pass_.get(1, 0) > 1]
    assert max(b - a for a, b in itertools.pairwise(when)) <= 4


def test_slow_prompts_get_few_tokens_of_a_pass_with_decodes() -> None:
    now = iter(range(0, 100_000, 10))
    passes = passes_of({1: 2000, 2: 3, 3: 900}, lambda: float(next(now)))
    shared = [pass_ for pass_ in passes if 1 in pass_.values() and max(pass_.values()) > 1]
    assert min(max(pass_.values()) for pass_ in shared) == 16


def test_nobody_gets_more_rows_than_a_pass_has() -> None:
    passes = passes_of({token: 200 for token in range(1, 9)}, stopped)
    assert max(sum(pass_.values()) for pass_ in passes) <= 256


def test_a_reader_that_does_not_read_is_not_decoded_for() -> None:
    model = FakeModel(lambda ids, _: [ids[0]] * 5000)
    scheduler = Scheduler(model)
    session = model.session(SamplingParams())
    session.append([7])
    with closing(scheduler.run(session, 5000)) as batches:
        next(batches)
        while scheduler._thread is not None:
            pass
        assert session._position <= 1 + (MAX_UNREAD + 1) * MAX_STEP_TOKENS
        assert sum(len(batch.ids) for batch in batches) == 4999


class TimedModel(FakeModel):
    """Notes when passes begin and end."""

    def __init__(self) -> None:
        super().__init__(lambda ids, _: [ids[0]] * 500)
        self.times: list[tuple[float, float]] = []

    def run_passes(self, parts: Sequence[Part[FakeSession]], seconds: float) -> list[PassOutcome]:
        start = time.perf_counter()
        outcomes = super().run_passes(parts, seconds)
        self.times.append((start, time.perf_counter()))
        return outcomes


def test_a_first_token_is_handed_over_before_the_next_pass() -> None:
    model = TimedModel()
    session = model.session(SamplingParams())
    session.append([7] * 300)
    assert sum(len(batch.ids) for batch in Scheduler(model).run(session, 40)) == 40
    between = [after[0] - before[1] for before, after in itertools.pairwise(model.times)]
    assert between[1] >= FIRST_LOOK_S, "the second pass brought the first token"


class BrokenModel(FakeModel):
    """Fails as a whole."""

    def __init__(self, error: Exception) -> None:
        super().__init__(lambda *_: [1])
        self.error = error

    def run_passes(self, parts: Sequence[Part[FakeSession]], seconds: float) -> list[PassOutcome]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "seen", "message"),
    [
        (StorageError("the file changed"), StorageError, "the file changed"),
        (ValueError("a user's text"), AutoGLMError, r"internal error \(ValueError\)"),
    ],
)
def test_what_fails_a_pass_reaches_the_reader(error, seen, message) -> None:
    engine = fake_engine(BrokenModel(error))
    for _ in range(2):
        with pytest.raises(seen, match=message):
            list(engine.stream(ask("?")))


def test_the_error_of_one_session_leaves_the_others_alone() -> None:
    class OneFails(FakeModel):
        def run_passes(
            self, parts: Sequence[Part[FakeSession]], seconds: float
        ) -> list[PassOutcome]:
            outcomes = super().run_passes(parts, seconds)
            return [
                PassOutcome([], 0, False, StorageError("x")) if part.session is bad else outcome
                for part, outcome in zip(parts, outcomes, strict=True)
            ]

    model = OneFails(lambda *_: [3] * 50)
    scheduler = Scheduler(model)
    bad, good = model.session(SamplingParams()), model.session(SamplingParams())
    bad.append([1])
    good.append([2])
    first, second = scheduler.run(bad, 9), scheduler.run(good, 9)
    with pytest.raises(StorageError):
        list(first)
    assert [token for batch in second for token in batch.ids] == [3] * 9
