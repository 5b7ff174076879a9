"""Sessions: prefill and decode, prefix reuse, the end of the context, cancellation and signals."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.native_api.tiny_model import TinyModel, build

from autoglm import _core

ARGUMENT, CONTEXT_FULL, CANCELLED = 301, 402, 501
IDS = np.random.default_rng(2).integers(0, 67, 200).tolist()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build(tmp_path_factory.mktemp("model") / "model", max_position=256)


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Takes seconds on the scalar path over its whole context."""
    path = tmp_path_factory.mktemp("slow") / "model"
    return build(path, hidden_size=256, intermediate_size=512, num_layers=24, max_position=4096)


def greedy(**fields: object) -> _core.Sampling:
    sampling = _core.Sampling()
    for name, value in fields.items():
        setattr(sampling, name, value)
    return sampling


def error_code(call: Callable[[], object]) -> int:
    with pytest.raises(_core.CoreError) as caught:
        call()
    return int(caught.value.args[0])


def test_greedy_decoding_follows_the_largest_logit(model: TinyModel) -> None:
    session = model.session()
    session.prefill(IDS[:20])
    tokens = session.decode(10, greedy())
    logits = model.session().logits(IDS[:20] + tokens[:-1])
    assert tokens == logits[19:].argmax(-1).tolist()


def test_prefill_in_pieces_decodes_the_same_tokens(model: TinyModel) -> None:
    whole, pieces = model.session(), model.session()
    whole.prefill(IDS[:150])
    for first in range(0, 150, 37):
        pieces.prefill(IDS[first : min(first + 37, 150)])
    assert pieces.num_tokens == 150
    assert pieces.decode(8, greedy()) == whole.decode(8, greedy())


def test_decoding_in_pieces_gives_the_same_sampled_tokens(model: TinyModel) -> None:
    whole, pieces = model.session(), model.session()
    sampling = greedy(temperature=1.5, seed=7)
    whole.prefill(IDS[:10])
    pieces.prefill(IDS[:10])
    expected = whole.decode(20, sampling)
    got = [token for count in (1, 7, 12) for token in pieces.decode(count, sampling)]
    assert got == expected


def test_decode_stops_with_the_eos_as_the_last_token(model: TinyModel) -> None:
    session, limited = model.session(), model.session()
    session.prefill(IDS[:20])
    limited.prefill(IDS[:20])
    tokens = session.decode(10, greedy())
    eos = tokens[4]
    assert limited.decode(10, greedy(eos_ids=[eos])) == tokens[: tokens.index(eos) + 1]


def test_ignore_eos_decodes_past_it(model: TinyModel) -> None:
    session = model.session()
    session.prefill(IDS[:20])
    every_id = list(range(67))
    assert len(session.decode(10, greedy(eos_ids=every_id, ignore_eos=True))) == 10


def test_a_shared_prefix_is_found_in_whole_pages(model: TinyModel) -> None:
    executor = model.executor(max_context=1024)
    first, second = _core.Session(executor), _core.Session(executor)
    assert first.prefill(IDS[:150]) == 0
    assert second.prefill([*IDS[:140], 1, 2, 3]) == 128


def test_one_token_is_always_computed(model: TinyModel) -> None:
    executor = model.executor(max_context=1024)
    first, second = _core.Session(executor), _core.Session(executor)
    first.prefill(IDS[:128])
    assert second.prefill(IDS[:128]) == 64
    assert second.decode(4, greedy()) == first.decode(4, greedy())


def test_a_reused_prefix_gives_the_same_tokens_as_a_cold_start(model: TinyModel) -> None:
    executor = model.executor(max_context=1024)
    warm_up, reused, cold = _core.Session(executor), _core.Session(executor), model.session()
    warm_up.prefill(IDS[:100])
    assert reused.prefill(IDS) == 64
    cold.prefill(IDS)
    sampling = greedy(temperature=1.0, seed=3)
    assert reused.decode(30, sampling) == cold.decode(30, sampling)


def test_pages_come_back_when_a_session_ends(model: TinyModel) -> None:
    executor = model.executor(max_context=256)
    num_free = executor.num_free_pages
    session = _core.Session(executor)
    session.prefill(IDS)
    assert executor.num_free_pages == num_free - 4
    del session
    assert executor.num_free_pages == num_free


def test_prefill_beyond_the_context_changes_nothing(model: TinyModel) -> None:
    session = model.session()
    session.prefill(IDS[:100])
    assert error_code(lambda: session.prefill(IDS)) == CONTEXT_FULL
    assert session.num_tokens == 100
    assert len(session.decode(3, greedy())) == 3


def test_decode_ends_early_at_the_end_of_the_context(model: TinyModel) -> None:
    session = model.session()
    session.prefill(IDS)
    # The logits of token 256 give one more token, which is never computed.
    assert len(session.decode(100, greedy())) == 256 - 200 + 1
    assert error_code(lambda: session.decode(1, greedy())) == CONTEXT_FULL


def test_decode_ends_early_when_its_time_is_over(slow_model: TinyModel) -> None:
    session = slow_model.session(isa="scalar")
    session.prefill(IDS[:20])
    assert len(session.decode(50, greedy(), 0.0)) == 1
    assert len(session.decode(50, greedy(), 1e-3)) < 50


def test_a_draft_model_of_the_same_weights_is_always_right(model: TinyModel) -> None:
    executor = model.executor(max_context=512)
    draft_model = _core.DraftModel(model.executor(max_context=512), executor)
    drafted, plain = _core.Session(executor, draft_model), _core.Session(executor)
    sampling = greedy(temperature=0.7, seed=11, prompt_lookup=False)
    for session in (drafted, plain):
        session.prefill(IDS[:20])
    assert drafted.decode(200, sampling) == plain.decode(200, sampling)
    assert drafted.num_accepted == drafted.num_drafted > 0


def test_a_draft_model_of_another_vocabulary_is_refused(model: TinyModel, tmp_path: Path) -> None:
    other = build(tmp_path / "other", vocab_size=66)
    with pytest.raises(_core.CoreError, match="vocabulary of 66"):
        _core.DraftModel(other.executor(), model.executor())


def test_decode_ends_early_when_the_pages_run_out(model: TinyModel) -> None:
    executor = model.executor(max_context=256)
    holder, session = _core.Session(executor), _core.Session(executor)
    holder.prefill(IDS[:128])
    session.prefill(IDS[64:164])
    assert len(session.decode(100, greedy())) == 128 - 100 + 1
    del holder
    assert len(session.decode(5, greedy())) == 5


def test_cancel_interrupts_a_prefill_and_the_next_call_works(slow_model: TinyModel) -> None:
    session = slow_model.session(isa="scalar", prefill_chunk=64)
    ids = IDS * 20
    codes: list[int] = []
    worker = threading.Thread(target=lambda: codes.append(error_code(lambda: session.prefill(ids))))
    worker.start()
    while session.num_tokens == 0 and worker.is_alive():
        session.cancel()
        worker.join(0.01)
    worker.join()
    assert codes == [CANCELLED]
    num_tokens = session.num_tokens
    session.prefill(IDS[:3])
    assert session.num_tokens == num_tokens + 3
    expected = slow_model.session()
    expected.prefill(ids[:num_tokens] + IDS[:3])
    assert session.decode(3, greedy()) == expected.decode(3, greedy())


def test_cancel_before_a_call_stops_that_call_once(model: TinyModel) -> None:
    session = model.session()
    session.cancel()
    assert error_code(lambda: session.prefill(IDS)) == CANCELLED
    assert session.prefill(IDS) == 0


def test_a_signal_handler_interrupts_a_long_prefill(slow_model: TinyModel) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    session = slow_model.session(isa="scalar", prefill_chunk=4096)
    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        start = time.monotonic()
        with pytest.raises(Interrupted):
            session.prefill(IDS * 20)
        elapsed = time.monotonic() - start
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    whole = time.monotonic()
    session.prefill(IDS * 2)
    # Interrupted between two layers, so well before a tenth of the prompt could be computed whole.
    assert elapsed < 10 * (time.monotonic() - whole)


def test_sessions_on_several_threads_decode_what_they_decode_alone(model: TinyModel) -> None:
    executor = model.executor(max_context=1024)
    results: dict[int, list[int]] = {}

    def run(first: int) -> None:
        session = _core.Session(executor)
        session.prefill(IDS[first : first + 70])
        results[first] = session.decode(40, greedy())

    workers = [threading.Thread(target=run, args=(first,)) for first in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for first, tokens in results.items():
        alone = model.session()
        alone.prefill(IDS[first : first + 70])
        assert alone.decode(40, greedy()) == tokens


@pytest.mark.parametrize("ids", [[], [67], [-1]])
def test_prefill_refuses_ids_outside_the_vocabulary(model: TinyModel, ids: list[int]) -> None:
    assert error_code(lambda: model.session().prefill(ids)) == ARGUMENT


def test_decode_needs_a_prefill(model: TinyModel) -> None:
    assert error_code(lambda: model.session().decode(1, greedy())) == ARGUMENT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("presence_penalty", float("inf")),
        ("logit_bias", {67: 1.0}),
    ],
)
def test_decode_refuses_sampling_out_of_range(model: TinyModel, name: str, value: object) -> None:
    session = model.session()
    session.prefill(IDS[:4])
    assert error_code(lambda: session.decode(1, greedy(**{name: value}))) == ARGUMENT


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", -1), ("isa", "mips"), ("prefill_chunk", 0), ("max_context", -1)],
)
def test_executor_refuses_a_plan_out_of_range(
    model: TinyModel, name: str, value: int | str
) -> None:
    assert error_code(lambda: model.executor(**{name: value})) == ARGUMENT


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 advises against it
def test_a_forked_child_computes_and_ends(model: TinyModel) -> None:
    """The threads of the pool stay behind; the child must neither need them nor wait for them."""
    executor = model.executor(threads=2)
    expected = _core.Session(executor).score(IDS)
    child = os.fork()
    if child == 0:
        exit_code = 1
        try:
            exit_code = int(_core.Session(executor).score(IDS) != expected)
            del executor
        finally:
            os._exit(exit_code)
    ended, _, _ = select.select([os.pidfd_open(child)], [], [], 20.0)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
