"""The local engine's decode loop: how answers end, batches, cancellation, shared cache."""

import threading

import pytest
from tests.fakes import BYTES, EOS, ask, fake_engine, fake_model, text_of

from autoglm.engine.fake import FakeModel
from autoglm.errors import ContextOverflowError, InvalidRequestError
from autoglm.types import Cancellation, Chunk, SamplingParams, Usage


def answer(text: str, **fields: object) -> list[Chunk]:
    engine = fake_engine(fake_model(lambda _prompt, _sampling: text))
    return list(engine.stream(ask("?", **fields)))


def test_an_answer_that_ends_by_itself_stops_without_its_end_token() -> None:
    chunks = answer("会议结束。")
    assert text_of(chunks) == "会议结束。"
    assert chunks[-1].finish_reason == "stop"
    assert EOS not in [token for chunk in chunks for token in chunk.token_ids]


def test_usage_counts_the_prompt_and_every_generated_token() -> None:
    assert answer("abc")[-1].usage == Usage(prompt_tokens=3, completion_tokens=4)


def test_first_chunk_holds_one_token() -> None:
    chunks = answer("abcdefgh")
    assert chunks[0].token_ids == tuple(BYTES.encode("a"))
    assert len(chunks) < 8, "later chunks hold several"


def test_max_tokens_ends_an_answer_by_length() -> None:
    chunks = answer("abcdef", max_tokens=4)
    assert (text_of(chunks), chunks[-1].finish_reason) == ("abcd", "length")
    assert chunks[-1].usage == Usage(3, 4)


def test_length_inside_a_character_gives_a_replacement_character() -> None:
    assert text_of(answer("会", max_tokens=2)) == "\ufffd"


def test_stop_string_across_batches_ends_the_answer_before_itself() -> None:
    chunks = answer("one two END three", stop=("END", "nothing"))
    assert (text_of(chunks), chunks[-1].finish_reason) == ("one two ", "stop")
    assert chunks[-1].usage == Usage(3, len("one two END"))


def test_start_of_a_stop_string_at_the_end_of_the_answer_is_given_out() -> None:
    assert text_of(answer("one EN", stop=("END",))) == "one EN"


def test_ignore_eos_decodes_to_max_tokens() -> None:
    chunks = answer("ab", max_tokens=6, sampling=SamplingParams(ignore_eos=True))
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage == Usage(3, 6)


def test_white_space_before_the_answer_is_left_out() -> None:
    assert text_of(answer("\n \n会")) == "会"


def test_answer_is_limited_to_what_the_window_has_left() -> None:
    engine = fake_engine(fake_model(lambda *_: "x" * 99), context_tokens=20)
    last = list(engine.stream(ask("?" * 8, max_tokens=50)))[-1]
    assert last.usage == Usage(10, 10)
    assert last.finish_reason == "length"


def test_a_prompt_that_fills_the_window_is_refused_with_both_numbers() -> None:
    engine = fake_engine(fake_model(lambda *_: "x"), context_tokens=20)
    with pytest.raises(ContextOverflowError, match="prompt has 22 tokens, the context window 20"):
        list(engine.stream(ask("?" * 20)))


def test_cancelling_ends_the_stream_with_the_text_so_far() -> None:
    engine = fake_engine(fake_model(lambda *_: "abc" * 300))
    cancellation = Cancellation()
    chunks = []
    for chunk in engine.stream(ask("?", max_tokens=900, cancellation=cancellation)):
        chunks.append(chunk)
        cancellation.cancel()
    assert text_of(chunks) == "a"
    assert chunks[-1].finish_reason == "cancelled"
    assert chunks[-1].usage == Usage(3, 1)


def test_a_request_cancelled_before_it_starts_reads_no_prompt() -> None:
    model = fake_model(lambda *_: "abc")
    cancellation = Cancellation()
    cancellation.cancel()
    chunks = list(fake_engine(model).stream(ask("?", cancellation=cancellation)))
    assert [chunk.finish_reason for chunk in chunks] == ["cancelled"]
    assert model.prompts == []


def test_two_streams_of_one_thread_interleave() -> None:
    engine = fake_engine(fake_model(lambda prompt, _: prompt.strip() * 3))
    first, second = engine.stream(ask("ab")), engine.stream(ask("xy"))
    texts = ["", ""]
    for one, two in zip(first, second, strict=True):
        texts[0] += one.text
        texts[1] += two.text
    assert texts == ["ababab", "xyxyxy"]


def test_threads_share_an_engine() -> None:
    engine = fake_engine(fake_model(lambda prompt, _: prompt.strip() * 5), context_tokens=64)
    answers: dict[int, str] = {}

    def work(number: int) -> None:
        for _ in range(20):
            answers[number] = text_of(list(engine.stream(ask(f"<{number}>", max_tokens=40))))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: f"<{n}>" * 5 for n in range(8)}


def test_a_closed_stream_gives_its_share_of_the_cache_back() -> None:
    model = FakeModel(lambda *_: [1] * 50, pool_tokens=60)
    engine = fake_engine(model)
    for _ in range(3):
        stream = engine.stream(ask("?", max_tokens=50))
        next(stream)
        stream.close()
    assert len(model.prompts) == 3


def test_a_request_that_waits_for_an_open_stream_can_be_cancelled(monkeypatch) -> None:
    engine = fake_engine(FakeModel(lambda *_: [1] * 50, pool_tokens=60))
    open_stream = engine.stream(ask("?", max_tokens=50))
    next(open_stream)
    cancellation = Cancellation()

    def cancel_instead(timeout: float) -> bool:
        cancellation.cancel()
        return True

    monkeypatch.setattr(engine._pool._changed, "wait", cancel_instead)
    waiting = list(engine.stream(ask("?", max_tokens=50, cancellation=cancellation)))
    assert [chunk.finish_reason for chunk in waiting] == ["cancelled"]


def test_a_prompt_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine(fake_model(lambda *_: "ok"))
    monkeypatch.setattr(engine, "prompt_ids", lambda _: [])
    with pytest.raises(InvalidRequestError, match="no token that the model knows"):
        list(engine.stream(ask("?")))
