"""Attention over sinks and a window: exactness, any length in bounded memory, prefix reuse."""

from __future__ import annotations

import itertools
import resource
from pathlib import Path

import numpy as np
import pytest
from tests.native_api import reference
from tests.native_api.tiny_model import TinyModel, build

from autoglm import _core

ISAS = _core.cpu_info()["supported"]
IDS = np.random.default_rng(3).integers(0, 67, 700).tolist()
PAGE = 64


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build(tmp_path_factory.mktemp("window") / "model", head_dim=16, rotary_dim=16)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("window", "sink"), [(64, 64), (192, 64), (64, 0), (128, 128)])
def test_logits_match_a_masked_float64_reference(
    model: TinyModel, isa: str, window: int, sink: int
) -> None:
    """The text is longer than the model's longest sequence, 512 tokens."""
    got = model.session(isa=isa, window=window, sink=sink, prefill_chunk=256).logits(IDS)
    wanted = reference.logits(model, IDS, window=window, sink=sink)
    # As without a window: float32 sums.
    assert relative_error(got, wanted) <= 1e-5


def test_the_window_matters(model: TinyModel) -> None:
    full = reference.logits(model, IDS[:300])
    assert relative_error(reference.logits(model, IDS[:300], window=64, sink=64), full) > 1e-2


@pytest.mark.parametrize("kv_dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_window_longer_than_the_text_changes_no_bit(
    model: TinyModel, isa: str, kv_dtype: str
) -> None:
    full = model.session(isa=isa, kv_dtype=kv_dtype).logits(IDS[:500])
    wide = model.session(isa=isa, kv_dtype=kv_dtype, window=320, sink=128, prefill_chunk=100)
    np.testing.assert_array_equal(full, wide.logits(IDS[:500]))


@pytest.mark.parametrize("kv_dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("isa", ISAS)
def test_chunks_and_threads_do_not_change_a_bit(model: TinyModel, isa: str, kv_dtype: str) -> None:
    plan = {"isa": isa, "kv_dtype": kv_dtype, "window": 130}
    whole = model.session(threads=1, prefill_chunk=1024, **plan).logits(IDS)
    for threads, chunk in [(2, 256), (3, 100), (1, 1)]:
        divided = model.session(threads=threads, prefill_chunk=chunk, **plan).logits(IDS)
        np.testing.assert_array_equal(whole, divided)


@pytest.mark.parametrize("kv_dtype", ["fp32", "fp16", "int8"])
def test_int8_and_half_caches_stay_close(model: TinyModel, kv_dtype: str) -> None:
    got = model.session(kv_dtype=kv_dtype, window=128).logits(IDS)
    wanted = reference.logits(model, IDS, window=128, sink=64)
    # Codes of 8 bits: half a step of 1/127 of the largest element; halves 2^-11.
    assert relative_error(got, wanted) <= {"fp32": 1e-5, "fp16": 5e-3, "int8": 5e-2}[kv_dtype]


def test_a_decoded_token_sees_what_a_prefilled_one_sees(model: TinyModel) -> None:
    session = model.session(window=100)
    session.prefill(IDS[:150])
    sampling = _core.Sampling()
    tokens = list(itertools.chain(*(session.decode(count, sampling) for count in (1, 90, 200))))
    logits = model.session(window=100).logits(IDS[:150] + tokens[:-1])
    assert tokens == logits[149:].argmax(-1).tolist()


def test_drafts_change_no_token(model: TinyModel) -> None:
    sampling = _core.Sampling()
    sampling.temperature, sampling.seed = 0.3, 3
    drafted, plain = model.session(window=64), model.session(window=64)
    for session in (drafted, plain):
        session.prefill(IDS[:40] * 5)
    tokens = drafted.decode(300, sampling)
    sampling.prompt_lookup = False
    assert tokens == plain.decode(300, sampling)


def test_a_hundred_thousand_tokens_take_the_memory_of_the_window(model: TinyModel) -> None:
    executor = model.executor(window=256, prefill_chunk=128, threads=1)
    num_pages = executor.num_free_pages
    assert num_pages * PAGE == 64 + 256 + 64 + 128
    session = _core.Session(executor)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, 100_000, 5_000):
        session.prefill(np.random.default_rng(start).integers(0, 67, 5_000).tolist())
    session.decode(200, _core.Sampling())
    assert session.num_tokens == 100_200
    # Token ids, and the index of prompt lookup, take some 30 bytes a token; keys would take 1 KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
    del session
    assert executor.num_free_pages == num_pages


def test_a_prefix_is_reused_as_long_as_its_pages_are_in_a_row(model: TinyModel) -> None:
    """All keys of the pages were computed with the same window, so they fit any continuation."""
    executor = model.executor(window=64, max_context=8 * PAGE, prefill_chunk=64)
    first = _core.Session(executor)
    first.prefill(IDS[: 6 * PAGE + 1])
    second, cold = _core.Session(executor), model.session(window=64)
    assert second.prefill(IDS[: 6 * PAGE + 2]) == 6 * PAGE
    cold.prefill(IDS[: 6 * PAGE + 2])
    assert second.decode(20, _core.Sampling()) == cold.decode(20, _core.Sampling())


def test_pages_that_left_the_window_are_not_reused_once_others_took_them(
    model: TinyModel,
) -> None:
    executor = model.executor(window=64, prefill_chunk=64)
    first = _core.Session(executor)
    first.prefill(IDS[: 9 * PAGE + 1])
    del first
    second, cold = _core.Session(executor), model.session(window=64)
    num_reused = second.prefill(IDS[: 9 * PAGE + 2])
    assert 0 < num_reused < 9 * PAGE
    cold.prefill(IDS[: 9 * PAGE + 2])
    assert second.decode(20, _core.Sampling()) == cold.decode(20, _core.Sampling())


def test_a_plan_says_how_much_of_the_cache_a_sequence_takes() -> None:
    plan = _core.Plan()
    assert plan.held_tokens(1000) == 1024
    plan.window, plan.prefill_chunk = 256, 128
    assert plan.held_tokens(300) == 320
    assert plan.held_tokens(10**6) == 64 + 256 + 64 + 128


@pytest.mark.parametrize(("name", "value"), [("window", -1), ("sink", -1)])
def test_a_window_out_of_range_is_refused(model: TinyModel, name: str, value: int) -> None:
    with pytest.raises(_core.CoreError, match=name):
        model.executor(**{name: value})


def test_a_window_wider_than_the_model_knows_keeps_its_longest_sequence(tmp_path: Path) -> None:
    model = build(tmp_path / "model", max_position=128)
    assert model.executor(window=64, sink=0).max_tokens == 1 << 30
    assert model.executor(window=128).max_tokens == 128
