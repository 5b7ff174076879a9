"""The engine over the native core with a tiny random model: what only real sessions can show."""

import json
import math
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from tests.fakes import ask, text_of

import autoglm
from autoglm.engine.local import LocalEngine
from autoglm.engine.model import (
    LoadedModel,
    embedded_model,
    load_engine,
    load_model,
    pool_tokens,
)
from autoglm.engine.native import NativeModel
from autoglm.errors import (
    CancelledError,
    ContextOverflowError,
    InvalidRequestError,
    ModelConfigError,
    ModelFileError,
    ModelNotFoundError,
    UsageError,
)
from autoglm.hardware.process import rss_bytes
from autoglm.modelfile.bundle import open_bundle
from autoglm.modelfile.convert import convert
from autoglm.types import Cancellation, SamplingParams

DEADLINE_S = 60.0
TEXT = "张敏：周五上线。Ann: Friday it is."


@pytest.fixture
def model(tiny_bundle) -> LoadedModel:
    with load_model(tiny_bundle, threads=2) as loaded:
        yield loaded


@pytest.fixture
def engine(model) -> LocalEngine:
    return model.engine(max_tokens=24)


def test_kv_cache_of_a_small_model_holds_four_windows_of_a_large_one_little_more(model) -> None:
    small = replace(model.config, num_layers=6, num_kv_heads=2, head_dim=64)
    large = replace(model.config, num_layers=28, num_kv_heads=4, head_dim=128)
    assert pool_tokens(small, 2048, "exact") == 4 * 2048
    assert pool_tokens(large, 8192, "exact") == 8192 + 64 * 2**20 // (28 * 4 * 128 * 2 * 2)


def test_logits_have_a_float32_row_for_every_token(model) -> None:
    ids = model.tokenizer.encode(TEXT)
    logits = model.logits(ids)
    assert (logits.shape, logits.dtype) == ((len(ids), model.config.vocab_size), np.float32)


def test_score_is_the_negative_log_likelihood_of_the_logits(model) -> None:
    ids = model.tokenizer.encode(TEXT)
    rows = model.logits(ids)[:-1].astype(np.float64)
    log_z = np.logaddexp.reduce(rows, axis=1)
    expected = float(np.sum(log_z - rows[np.arange(len(rows)), ids[1:]]))
    assert math.isclose(model.score(ids), expected, rel_tol=1e-5)


def test_greedy_answer_follows_the_argmax_of_the_logits(model, engine) -> None:
    chunks = list(engine.stream(ask(TEXT, max_tokens=4)))
    answer = [token for chunk in chunks for token in chunk.token_ids]
    ids = engine.prompt_ids(ask(TEXT))
    for token in answer:
        assert token == int(np.argmax(model.logits(ids)[-1]))
        ids = [*ids, token]


def test_an_engine_loaded_at_once_asks_the_same_prompts(engine, tiny_bundle) -> None:
    model, other = load_engine(tiny_bundle, max_tokens=24)
    with model:
        assert other.prompt_ids(ask(TEXT)) == engine.prompt_ids(ask(TEXT))


def test_second_request_finds_the_prompt_in_the_prefix_cache(engine) -> None:
    first, second = (list(engine.stream(ask(TEXT * 8)))[-1] for _ in range(2))
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= 64
    assert second.usage.prompt_tokens == first.usage.prompt_tokens


def test_seed_repeats_an_answer_and_another_seed_gives_another(engine) -> None:
    def answer(seed: int | None) -> str:
        sampling = SamplingParams(temperature=1.5, seed=seed, ignore_eos=True)
        return text_of(list(engine.stream(ask(TEXT, sampling=sampling))))

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)
    assert answer(None) != answer(None)


def test_long_text_is_read_through_small_windows(tiny_bundle) -> None:
    with autoglm.AutoGLMClient(tiny_bundle, context_tokens=256, max_tokens=24) as client:
        result = client.generate("List", "".join(f"Ann: item {n}.\n" for n in range(40)))
    assert result.route.num_parts > 1
    assert result.usage.prompt_tokens > 600


def test_threads_of_one_client_get_the_answers_of_one_thread(tiny_bundle) -> None:
    prompts = [f"{number}: {TEXT}" for number in range(6)]
    with autoglm.AutoGLMClient(tiny_bundle, max_tokens=16, cache_mib=0, threads=2) as client:
        alone = [client.generate(prompt).text for prompt in prompts]
        together: dict[str, str] = {}

        def work(prompt: str) -> None:
            together[prompt] = client.generate(prompt).text

        threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [together[prompt] for prompt in prompts] == alone


def test_cancel_during_native_work_ends_the_request(engine, monkeypatch) -> None:
    cancellation = Cancellation()
    canceller = threading.Thread(target=cancellation.cancel)
    run_passes = NativeModel.run_passes

    def cancel_meanwhile(model: NativeModel, parts: list, seconds: float) -> list:
        """The second pass runs while another thread cancels; a third would come after that."""
        if not canceller.ident and parts[0].most_ids > 1:
            canceller.start()
        elif canceller.ident:
            canceller.join()
        return run_passes(model, parts, seconds)

    monkeypatch.setattr(NativeModel, "run_passes", cancel_meanwhile)
    sampling = SamplingParams(ignore_eos=True)
    request = ask("x", max_tokens=1900, sampling=sampling, cancellation=cancellation)
    last = list(engine.stream(request))[-1]
    assert last.finish_reason == "cancelled"
    assert last.usage.completion_tokens < 100


def test_a_prompt_read_in_steps_gives_the_logits_of_the_whole(model, engine) -> None:
    prompt = "".join(f"{n} " for n in range(400))
    ids = engine.prompt_ids(ask(prompt))
    assert len(ids) > 1024
    first = next(engine.stream(ask(prompt, max_tokens=1))).token_ids
    assert first == (int(np.argmax(model.logits(ids)[-1])),)


def test_requests_ended_at_any_point_give_all_pages_back(model) -> None:
    engine = model.engine(max_tokens=200)
    executor = model.native._executor
    num_pages = executor.num_free_pages
    for number in range(150):
        cancellation = Cancellation()
        request = ask(TEXT * (1 + number % 20), cancellation=cancellation)
        stream = engine.stream(request)
        for _ in range(number % 5):
            next(stream, None)
        if number % 3 == 0:
            stream.close()
        elif number % 3 == 1:
            cancellation.cancel()
            list(stream)
        del stream
    assert executor.num_free_pages == num_pages


def test_a_cancelled_score_is_a_cancelled_error(model) -> None:
    stop = threading.Event()

    def keep_cancelling() -> None:
        while not stop.wait(0.001):
            model.cancel()

    thread = threading.Thread(target=keep_cancelling)
    thread.start()
    try:
        with pytest.raises(CancelledError):
            for _ in range(1000):
                model.score(list(range(200)) * 5)
    finally:
        stop.set()
        thread.join()


def test_a_closed_model_is_a_usage_error(tiny_bundle) -> None:
    model = load_model(tiny_bundle)
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.score([1, 2])


@pytest.mark.parametrize("ids", [[], [-1], [10**6], [2**40], [1.5], ["1"], "12", [None]])
def test_token_ids_outside_the_vocabulary_are_invalid(model, ids: list[int]) -> None:
    with pytest.raises(InvalidRequestError, match="token id"):
        model.logits(ids)


def test_token_ids_may_be_numpys(model) -> None:
    ids = np.array([1, 2, 3])
    assert model.score(ids) == model.score(ids.tolist())


@pytest.mark.parametrize("call", ["logits", "score"])
def test_more_token_ids_than_the_context_holds_are_an_overflow(tiny_bundle, call: str) -> None:
    with load_model(tiny_bundle, context_tokens=64) as model:
        most = model.native._executor.max_tokens
        getattr(model, call)([1] * most)
        with pytest.raises(ContextOverflowError, match=f"{most + 1} token ids, the context holds"):
            getattr(model, call)([1] * (most + 1))


def test_a_bias_on_a_token_the_model_lacks_is_refused_before_the_prompt_is_read(model) -> None:
    executor = model.native._executor
    request = ask(TEXT, sampling=SamplingParams(logit_bias={270: 1.0}))
    executor.start_profile()
    with pytest.raises(InvalidRequestError, match=r"logit_bias token is 270; expected .* to 269"):
        list(model.engine(max_tokens=1).stream(request))
    assert executor.stop_profile() == []


def test_the_largest_bias_of_a_request_is_one_the_core_takes(model) -> None:
    for bias in (1e4, -1e4):
        sampling = SamplingParams(logit_bias={65: bias})
        chunks = list(model.engine(max_tokens=3).stream(ask(TEXT, sampling=sampling)))
        tokens = [token for chunk in chunks for token in chunk.token_ids]
        assert (tokens == [65] * 3) == (bias > 0)


def test_a_window_beyond_the_models_is_a_usage_error(tiny_bundle) -> None:
    with pytest.raises(UsageError, match="context_tokens is 999999"):
        load_model(tiny_bundle, context_tokens=999_999)


def test_a_missing_directory_and_a_plain_file_are_not_models(tmp_path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_model(tmp_path / "absent")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ModelNotFoundError):
        load_model(file)


def copy_with(bundle, target, name: str, content: bytes | None):
    """A copy of the bundle in which one file has other content, or is missing."""
    target.mkdir()
    for path in bundle.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    if content is None:
        (target / name).unlink()
    else:
        (target / name).write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", b"\0" * 100),
        ("model.safetensors", None),
        ("config.json", b"[]"),
        ("chat_template.jinja", b"{% for %}"),
    ],
)
def test_a_broken_file_of_the_bundle_is_a_model_file_error(
    tiny_bundle, tmp_path, name: str, content: bytes | None
) -> None:
    broken = copy_with(tiny_bundle, tmp_path / "broken", name, content)
    with pytest.raises(ModelFileError), load_model(broken) as model:
        model.engine(max_tokens=1)


def test_a_tokenizer_of_another_model_is_a_config_error(tiny_bundle, tmp_path) -> None:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    backend.add_tokens([f"extra{n}" for n in range(5000)])
    content = backend.to_str().encode()
    broken = copy_with(tiny_bundle, tmp_path / "broken", "tokenizer.json", content)
    with pytest.raises(ModelConfigError, match="token id"):
        load_model(broken)


def test_fingerprint_reads_no_endless_manifest(tiny_bundle, tmp_path) -> None:
    broken = copy_with(tiny_bundle, tmp_path / "broken", "manifest.json", b"x")
    with (broken / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    with load_model(broken) as model, pytest.raises(ModelFileError, match="at most"):
        model.fingerprint()


def test_fingerprint_changes_with_template_and_tokenizer(tiny_bundle, tmp_path) -> None:
    tokenizer = (tiny_bundle / "tokenizer.json").read_bytes() + b"\n"
    other_tokenizer = copy_with(tiny_bundle, tmp_path / "a", "tokenizer.json", tokenizer)
    other_template = copy_with(tiny_bundle, tmp_path / "b", "chat_template.jinja", b"x")
    prints = {
        load_model(path).fingerprint() for path in (tiny_bundle, other_tokenizer, other_template)
    }
    assert len(prints) == 3


def test_a_window_reads_a_text_longer_than_the_models_context(tiny_bundle) -> None:
    with load_model(tiny_bundle, window=128, context_tokens=9000) as model:
        engine = model.engine(max_tokens=8)
        text = TEXT * 200
        assert len(engine.prompt_ids(ask(text))) > model.bundle.max_position
        last = list(engine.stream(ask(text, sampling=SamplingParams(ignore_eos=True))))[-1]
        assert last.usage.completion_tokens == 8


def test_a_window_longer_than_the_prompt_answers_as_without(tiny_bundle, engine) -> None:
    with load_model(tiny_bundle, window=192) as model:
        windowed = list(model.engine(max_tokens=24).stream(ask(TEXT)))
    assert text_of(windowed) == text_of(list(engine.stream(ask(TEXT))))


def test_prefault_maps_the_weights_before_they_are_read():
    bundle = open_bundle(embedded_model())
    model = NativeModel(bundle, pool_tokens=64)
    before, deadline = rss_bytes(), time.monotonic() + DEADLINE_S
    model.start_prefault()
    while rss_bytes() - before < 0.9 * bundle.weights_bytes:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.8, seed=5)])
def test_a_draft_model_answers_as_the_model_alone(
    tiny_bundle, tiny_checkpoint, tmp_path, engine, sampling: SamplingParams
) -> None:
    convert(tiny_checkpoint, tmp_path / "draft", "int4")
    request = ask(TEXT, sampling=replace(sampling, ignore_eos=True), max_tokens=150)
    with load_model(tiny_bundle, threads=2, draft_model=tmp_path / "draft") as model:
        answer = text_of(list(model.engine(max_tokens=24).stream(request)))
    assert answer == text_of(list(engine.stream(request)))


def test_a_draft_model_with_another_tokenizer_is_refused(tiny_bundle, tmp_path) -> None:
    draft = shutil.copytree(tiny_bundle, tmp_path / "draft")
    tokenizer = json.loads((draft / "tokenizer.json").read_text(encoding="utf-8"))
    (draft / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    load_model(tiny_bundle, draft_model=draft).close()  # the same one, written otherwise
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (draft / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(UsageError, match="another tokenizer"):
        load_model(tiny_bundle, draft_model=draft)
