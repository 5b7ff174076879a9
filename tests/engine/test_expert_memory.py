"""A mixture whose experts are read when needed: the same answers, counted reads, clear errors."""

import os
from pathlib import Path

import pytest
from random_mixture import shape, write_bundle
from tests.fakes import ask, text_of

import autoglm
from autoglm.engine import model
from autoglm.engine.memory import LEAST_BYTES
from autoglm.engine.model import load_model
from autoglm.engine.precision import kv_token_bytes
from autoglm.errors import InvalidRequestError, ResourceError, StorageError, UsageError
from autoglm.modelfile.bundle import WEIGHTS_NAME, open_bundle
from autoglm.modelfile.packing import Packing
from autoglm.types import SamplingParams

SIZES = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "moe_intermediate_size": 96,
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
}
NUM_EXPERTS = 3 * 16


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Path:
    """One dense layer and three mixtures; a MiB holds a third of the experts."""
    path = tmp_path_factory.mktemp("mixture") / "model"
    write_bundle(path, {**shape(4, 270), **SIZES})
    return path


def answer(path: Path, **options: int) -> str:
    request = ask("x" * 40, max_tokens=40, sampling=SamplingParams(ignore_eos=True))
    with load_model(path, threads=2, **options) as loaded:
        return text_of(loaded.engine(max_tokens=40).stream(request))


def test_streamed_experts_give_the_same_answer(mixture) -> None:
    assert answer(mixture, expert_memory_mib=1) == answer(mixture)


def test_layers_of_other_formats_share_the_memory(tmp_path) -> None:
    formats = {
        "model.layers.1.moe.experts.down": "int8",
        "model.layers.2.moe.experts.gate_up": "int8",
    }
    packing = Packing(weights="int4", formats=formats)
    write_bundle(tmp_path / "model", {**shape(4, 270), **SIZES}, packing)
    assert answer(tmp_path / "model", expert_memory_mib=1) == answer(tmp_path / "model")


def test_stats_say_how_many_experts_were_in_memory(mixture) -> None:
    with load_model(mixture, threads=1, expert_memory_mib=1) as loaded:
        loaded.logits(list(range(20)))
        first = loaded.native.expert_stats()
        loaded.logits(list(range(100, 120)))
        then = loaded.native.expert_stats().since(first)
    assert 2 < first.num_slots < NUM_EXPERTS
    assert first.num_resident == 0
    assert first.bytes_read >= first.num_used * first.expert_bytes
    assert 0.0 < then.hit_rate < 1.0


def test_mapped_experts_are_not_counted(mixture) -> None:
    with load_model(mixture, threads=1) as loaded:
        loaded.logits([1, 2, 3])
        assert set(loaded.native.expert_stats()) == {0}


def test_a_model_without_experts_refuses_memory_for_them(tiny_bundle) -> None:
    with pytest.raises(UsageError, match=r"^expert_memory_mib is 5, .* has no experts"):
        load_model(tiny_bundle, expert_memory_mib=5)


def test_memory_for_too_few_experts_is_refused_with_the_size_it_takes(tmp_path) -> None:
    write_bundle(tmp_path / "model", {**shape(2, 270), **SIZES, "moe_intermediate_size": 8192})
    with pytest.raises(InvalidRequestError, match=r"holds 0 experts .* give at least \d+ MiB"):
        load_model(tmp_path / "model", expert_memory_mib=1)


def test_memory_for_experts_that_the_machine_lacks_is_refused(mixture, monkeypatch) -> None:
    fixed = sum(t.nbytes for t in open_bundle(mixture).tensors if ".moe.experts." not in t.name)
    kv_bytes = 64 * kv_token_bytes(open_bundle(mixture).config, "exact")
    available = fixed + LEAST_BYTES + kv_bytes + 2**19
    monkeypatch.setattr(model, "available_bytes", lambda: available)
    load_model(mixture, context_tokens=64).close()
    with pytest.raises(ResourceError, match="MiB are available"):
        load_model(mixture, context_tokens=64, expert_memory_mib=1)


def test_a_file_cut_in_use_is_a_storage_error(tmp_path) -> None:
    write_bundle(tmp_path / "model", {**shape(4, 270), **SIZES})
    weights = tmp_path / "model" / WEIGHTS_NAME
    with load_model(tmp_path / "model", threads=2, expert_memory_mib=1) as loaded:
        loaded.logits([1, 2, 3])
        os.truncate(weights, weights.stat().st_size // 2)
        with pytest.raises(StorageError):
            loaded.logits(list(range(100, 140)))


def test_the_client_takes_the_setting(mixture) -> None:
    with autoglm.AutoGLMClient(mixture, max_tokens=4, expert_memory_mib=1) as client:
        streamed = client.generate("hello").text
    with autoglm.AutoGLMClient(mixture, max_tokens=4) as client:
        assert client.generate("hello").text == streamed
