"""Configurations: family defaults, both rope notations, typed errors for what cannot be meant."""

import json

import pytest

from autoglm.errors import ModelConfigError, ModelFileError, UnsupportedModelError
from autoglm.modelfile.arch import SUPPORTED, Architecture, parse_architecture
from autoglm.modelfile.fields import Fields
from autoglm.modelfile.strict_json import parse_json, read_json

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def parse(architecture: str = "LlamaForCausalLM", **changes: object) -> Architecture:
    """SIZES with some keys changed; None removes one."""
    values = {"architectures": [architecture], **SIZES, **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    return parse_architecture(Fields(kept, "config.json"), "fp32")


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_every_family_parses_and_keeps_its_name(architecture):
    assert parse(architecture).name == architecture


@pytest.mark.parametrize(
    ("architecture", "head_dim", "rotary_dim", "is_interleaved"),
    [
        ("GlmForCausalLM", 128, 64, True),
        ("Glm4ForCausalLM", 128, 64, True),
        ("Glm4MoeForCausalLM", 16, 8, False),
        ("LlamaForCausalLM", 16, 16, False),
        ("Qwen2ForCausalLM", 16, 16, False),
        ("Qwen3ForCausalLM", 128, 128, False),
    ],
)
def test_defaults_of_the_family(architecture, head_dim, rotary_dim, is_interleaved):
    config = parse(architecture).config
    assert (config.head_dim, config.rotary_dim) == (head_dim, rotary_dim)
    assert config.rope_interleaved is is_interleaved


def test_norms_of_the_families():
    assert parse("Glm4ForCausalLM").config.sandwich_norms
    assert not parse("GlmForCausalLM").config.sandwich_norms
    assert parse("Qwen3ForCausalLM").config.qk_norm
    assert not parse("Glm4MoeForCausalLM").config.qk_norm
    assert parse("Glm4MoeForCausalLM", use_qk_norm=True).config.qk_norm


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        ("GlmForCausalLM", {}, (True, False, False)),
        ("GlmForCausalLM", {"attention_bias": False}, (False, False, False)),
        ("Qwen2ForCausalLM", {"attention_bias": False}, (True, False, False)),
        ("Qwen3ForCausalLM", {"attention_bias": True}, (True, True, False)),
        ("LlamaForCausalLM", {"attention_bias": True}, (True, True, False)),
        ("LlamaForCausalLM", {"mlp_bias": True}, (False, False, True)),
        ("Glm4MoeForCausalLM", {"attention_bias": True}, (True, False, False)),
    ],
)
def test_biases_follow_the_family(architecture, keys, expected):
    biases = parse(architecture, **keys).biases
    assert (biases.qkv, biases.output, biases.mlp) == expected


def test_glm_45_air_in_full():
    config = parse(
        "Glm4MoeForCausalLM",
        head_dim=128,
        n_routed_experts=128,
        num_experts_per_tok=8,
        n_shared_experts=1,
        moe_intermediate_size=1408,
        first_k_dense_replace=1,
        routed_scaling_factor=1.0,
        norm_topk_prob=True,
        num_nextn_predict_layers=1,
    ).config
    assert (config.num_experts, config.num_experts_per_tok, config.first_k_dense) == (128, 8, 1)
    assert (config.n_group, config.topk_group, config.norm_topk_prob) == (1, 1, True)


@pytest.mark.parametrize("name", ["default", "linear", "llama3", "yarn"])
@pytest.mark.parametrize("head_dim", [16, 80, 96, 128])
def test_inv_freq_equals_the_reference(name, head_dim):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = {
        "default": {"rope_type": "default"},
        "linear": {"rope_type": "linear", "factor": 3.0},
        "llama3": LLAMA3,
        "yarn": YARN,
    }[name]
    reference = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            head_dim=head_dim,
            max_position_embeddings=2048,
            rope_parameters={**scaling, "rope_theta": 5e5},
        )
    )
    config = parse(head_dim=head_dim, rope_theta=5e5, rope_scaling=scaling).config
    # One unit in the last place of float32: the power function is not the same library's.
    assert config.inv_freq == pytest.approx(reference.inv_freq.tolist(), rel=2.5e-7)
    assert config.rope_scale == pytest.approx(reference.attention_scaling, rel=1e-7)


def test_old_and_new_rope_notations_agree():
    old = parse(rope_theta=5e5, rope_scaling={**LLAMA3, "rope_type": None, "type": "llama3"})
    new = parse(rope_parameters={**LLAMA3, "rope_theta": 5e5})
    assert old.config == new.config


def test_partial_rotary_factor_is_read_from_either_place():
    old = parse("GlmForCausalLM", partial_rotary_factor=1.0)
    new = parse("GlmForCausalLM", rope_parameters={"partial_rotary_factor": 1.0})
    assert old.config.rotary_dim == new.config.rotary_dim == 128


def test_unsupported_architecture_is_named_with_the_supported_ones():
    with pytest.raises(UnsupportedModelError, match="'GPT2LMHeadModel'") as caught:
        parse("GPT2LMHeadModel")
    assert all(name in str(caught.value) for name in SUPPORTED)


def test_unsupported_rope_is_named_with_the_supported_ones():
    with pytest.raises(UnsupportedModelError, match=r"'longrope'.*default, linear, llama3, yarn"):
        parse(rope_scaling={"rope_type": "longrope", "factor": 2.0})


@pytest.mark.parametrize(
    "keys",
    [
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
        {"layer_types": ["full_attention", "sliding_attention"]},
    ],
)
@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_sliding_window_in_use_is_refused(architecture, keys):
    with pytest.raises(UnsupportedModelError, match="sliding window"):
        parse(architecture, **keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 28},
        {"layer_types": ["full_attention", "full_attention"], "sliding_window": None},
    ],
)
def test_sliding_window_out_of_use_is_accepted(keys):
    assert parse("Qwen2ForCausalLM", **keys).config.num_layers == 2


HOSTILE = {
    "no architecture": {"architectures": None},
    "two architectures": {"architectures": ["LlamaForCausalLM", "GlmForCausalLM"]},
    "architecture is a number": {"architectures": [3]},
    "600 layers": {"num_hidden_layers": 600},
    "no layers": {"num_hidden_layers": 0},
    "layers missing": {"num_hidden_layers": None},
    "negative hidden size": {"hidden_size": -64},
    "hidden size as text": {"hidden_size": "64"},
    "hidden size as float": {"hidden_size": 64.0},
    "hidden size as boolean": {"hidden_size": True},
    "hidden size as list": {"hidden_size": [64]},
    "hidden size of 10^30": {"hidden_size": 10**30},
    "vocabulary of 2^31": {"vocab_size": 2**31},
    "intermediate size of 0": {"intermediate_size": 0},
    "no heads": {"num_attention_heads": 0},
    "a million heads": {"num_attention_heads": 10**6},
    "more KV heads than heads": {"num_key_value_heads": 8},
    "KV heads do not divide": {"num_attention_heads": 4, "num_key_value_heads": 3},
    "heads do not divide": {"hidden_size": 66, "num_attention_heads": 4},
    "odd head": {"head_dim": 15},
    "huge head": {"head_dim": 4096},
    "negative epsilon": {"rms_norm_eps": -1e-6},
    "epsilon of 0": {"rms_norm_eps": 0.0},
    "infinite epsilon": {"rms_norm_eps": float("inf")},
    "epsilon as text": {"rms_norm_eps": "1e-6"},
    "unknown activation": {"hidden_act": "gelu"},
    "tying as text": {"tie_word_embeddings": "yes"},
    "bias as number": {"attention_bias": 1},
    "no context length": {"max_position_embeddings": None},
    "context of 2^40": {"max_position_embeddings": 2**40},
    "negative theta": {"rope_theta": -1.0},
    "theta of 0": {"rope_theta": 0},
    "infinite theta": {"rope_theta": float("inf")},
    "rope scaling as text": {"rope_scaling": "linear"},
    "rope type as number": {"rope_scaling": {"rope_type": 3}},
    "rope factor missing": {"rope_scaling": {"rope_type": "linear"}},
    "rope factor below 1": {"rope_scaling": {"rope_type": "linear", "factor": 0.5}},
    "llama3 bands reversed": {"rope_scaling": {**LLAMA3, "high_freq_factor": 0.5}},
    "llama3 band missing": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    "yarn of theta 1": {"rope_theta": 1.0, "rope_scaling": YARN},
    "rope a layer type": {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
    "partial rope": {"partial_rotary_factor": 0.5},
    "rope over nothing": {"partial_rotary_factor": 0.0},
}
HOSTILE_MOE = {
    "no experts": {"n_routed_experts": 0},
    "a million experts": {"n_routed_experts": 10**6},
    "more chosen than there are": {"n_routed_experts": 8, "num_experts_per_tok": 9},
    "more chosen than selectable": {
        "n_routed_experts": 8,
        "n_group": 4,
        "topk_group": 1,
        "num_experts_per_tok": 3,
    },
    "groups do not divide": {"n_routed_experts": 8, "n_group": 3},
    "groups of one": {"n_routed_experts": 8, "n_group": 8},
    "more groups chosen": {"n_routed_experts": 8, "n_group": 2, "topk_group": 3},
    "negative expert width": {"moe_intermediate_size": -1},
    "no shared expert": {"n_shared_experts": 0},
}


@pytest.mark.parametrize("keys", HOSTILE.values(), ids=HOSTILE)
def test_absurd_configuration_ends_in_a_typed_error(keys):
    with pytest.raises(ModelFileError, match=r"^config\.json"):
        parse(**keys)


@pytest.mark.parametrize("keys", HOSTILE_MOE.values(), ids=HOSTILE_MOE)
def test_absurd_expert_configuration_ends_in_a_typed_error(keys):
    with pytest.raises(ModelConfigError, match=r"^config\.json"):
        parse("Glm4MoeForCausalLM", **keys)


HOSTILE_JSON = {
    "empty": b"",
    "not an object": b"[]",
    "cut": b'{"a": [1, 2',
    "two objects": b"{}{}",
    "duplicate key": b'{"a": 1, "a": 1}',
    "duplicate key deep inside": b'{"x": [{"a": 1, "\\u0061": 1}]}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "number of 5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "depth bomb": b'{"a":' * 100_000,
    "array depth bomb": b'{"a":' + b"[" * 1_000_000,
    "container bomb": b'{"a":[' + b"[]," * 100_000 + b"[]]}",
}


@pytest.mark.parametrize("content", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_json_ends_in_a_model_file_error(content):
    with pytest.raises(ModelFileError, match=r"^config\.json: "):
        parse_json(content, "config.json")


def test_brackets_inside_strings_do_not_count_as_depth():
    value = {"template": '{"[' * 1000 + '\\" }}}'}
    assert parse_json(json.dumps(value).encode(), "x") == value


def test_json_larger_than_allowed_is_refused_before_reading(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelFileError, match="at most 100"):
        read_json(path, max_bytes=100)
