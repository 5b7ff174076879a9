"""The cached path equals the full run: prompts in pieces, one token a step, reused prefixes."""

import numpy as np
import pytest

from autoglm import _core

PROMPT_TOKENS = 300
PIECES = (1, 2, 61, 100, 136)  # tokens a prefill call; together PROMPT_TOKENS


def prefill_in_pieces(session: _core.Session, ids: list[int]) -> None:
    for end, size in zip(np.cumsum(PIECES).tolist(), PIECES, strict=True):
        session.prefill(ids[end - size : end])


@pytest.mark.parametrize("packing", ["fp32", "int8"])
def test_decoding_step_by_step_follows_the_full_run(name, packing, make_case, start):
    case = make_case(name)
    new_session = start(case.bundle(packing), prefill_chunk=64)
    prompt = case.ids[:PROMPT_TOKENS]
    session = new_session()
    prefill_in_pieces(session, prompt)
    steps = [session.decode(1, _core.Sampling())[0] for _ in range(20)]
    tokens = steps + session.decode(30, _core.Sampling())
    full = new_session().logits(prompt + tokens)
    assert tokens == full[PROMPT_TOKENS - 1 : -1].argmax(1).tolist()


def test_a_reused_prefix_gives_the_same_tokens(name, make_case, start):
    case = make_case(name)
    new_session = start(case.bundle("int4"))
    prompt = case.ids[:PROMPT_TOKENS]
    first, second = new_session(), new_session()
    assert first.prefill(prompt) == 0
    expected = first.decode(20, _core.Sampling())
    assert second.prefill(prompt) >= PROMPT_TOKENS // 2
    assert second.decode(20, _core.Sampling()) == expected


def test_logits_do_not_depend_on_the_number_of_threads(name, make_case, start):
    case = make_case(name)
    bundle = case.bundle("int8")
    one, two = (start(bundle, threads=threads)().logits(case.ids[:200]) for threads in (1, 2))
    assert np.array_equal(one, two)
