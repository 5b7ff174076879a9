"""The network: parity with transformers, the chunked loss, the exported directory."""

import json

import minijinja
import pytest
import torch
import transformers

from autoglm.lite import model as lite_model
from autoglm.lite.export import export
from autoglm.lite.model import ChunkedCrossEntropy, LiteConfig, LiteModel, chunk_loss
from autoglm.lite.tokenizer import SPECIALS

CONFIG = LiteConfig(
    vocab_size=512,
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=256,
    rotary_dim=16,
    max_position=256,
)


@pytest.fixture
def model():
    return LiteModel(CONFIG, torch.Generator().manual_seed(3))


def test_logits_equal_transformers_on_the_exported_checkpoint(model, tokenizer_file, tmp_path):
    export(model, tokenizer_file, tmp_path, torch.float32)
    reference = transformers.GlmForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    ids = torch.randint(0, 512, (2, 200), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        ours, theirs = model(ids), reference(ids).logits
    # float32 sums in another order: rounding only
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize("z_coefficient", [0.0, 1e-2])
def test_chunked_loss_and_gradients_equal_plain_cross_entropy(z_coefficient, monkeypatch):
    monkeypatch.setitem(lite_model._LOSS_CHUNK_TOKENS, "cpu", 16)
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(50, 32, generator=generator, requires_grad=True)
    weight = torch.randn(96, 32, generator=generator, requires_grad=True)
    targets = torch.randint(0, 96, (50,), generator=generator)
    targets[::3] = -1
    logits = states @ weight.t()
    log_sum = torch.logsumexp(logits, -1)[targets >= 0]
    expected = (
        torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
        + z_coefficient * log_sum.square().sum()
    )
    wanted = torch.autograd.grad(expected, (states, weight))
    loss = ChunkedCrossEntropy.apply(states, weight, targets, z_coefficient, chunk_loss)
    found = torch.autograd.grad(loss, (states, weight))
    assert torch.allclose(loss, expected, rtol=1e-5)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_export_names_the_eos_set_and_the_architecture(model, tokenizer_file, tmp_path):
    export(model, tokenizer_file, tmp_path, torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert config["architectures"] == ["GlmForCausalLM"]
    assert [SPECIALS[i] for i in generation["eos_token_id"]] == [
        "<|endoftext|>",
        "<|user|>",
        "<|observation|>",
    ]


def test_chat_template_renders_the_glm_form_in_minijinja(model, tokenizer_file, tmp_path):
    export(model, tokenizer_file, tmp_path, torch.bfloat16)
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.add_template("chat", (tmp_path / "chat_template.jinja").read_text())
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U\n"}]
    rendered = environment.render_template("chat", messages=messages, add_generation_prompt=True)
    assert rendered == "[gMASK]<sop><|system|>\nS<|user|>\nU\n<|assistant|>\n"
