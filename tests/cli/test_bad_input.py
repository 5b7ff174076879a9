"""Every bad input ends in one line on stderr, nothing on stdout, and exit code 1 or 2."""

import json
import os
import resource
import shutil
from functools import partial

import pytest

from autoglm.inputs.text import DEFAULT_MAX_BYTES

FAILED, WRONG_USAGE = 1, 2


def refused(done, exit_code, *words):
    """Check the form of a refusal and that it names what is wrong."""
    assert done.stdout == ""
    assert done.exit_code == exit_code
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("autoglm: ")
    for word in words:
        assert word in done.stderr


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A copy to damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def generate(autoglm, bundle, *arguments):
    return autoglm("generate", "hello", "--model", bundle, "--max-tokens", 2, *arguments)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\x7fELF\x02\x01\x00\x00", "binary"),
        ("会议".encode("gbk"), "UTF-8"),
        ("会议".encode("utf-16"), "UTF-8"),
    ],
    ids=["empty", "blank", "binary", "gbk", "utf-16"],
)
def test_text_file_that_is_no_text(autoglm, tiny_bundle, tmp_path, content, word):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for command in (("generate", "hello"), ("score",)):
        refused(autoglm(*command, "--model", tiny_bundle, "--file", path), FAILED, word, str(path))


def test_text_file_that_is_missing_or_a_directory(autoglm, tiny_bundle, tmp_path):
    refused(generate(autoglm, tiny_bundle, "--file", tmp_path / "absent"), FAILED, "absent")
    refused(generate(autoglm, tiny_bundle, "--file", tmp_path), FAILED, str(tmp_path))


def test_huge_text_file_is_refused_unread(autoglm, tiny_bundle, tmp_path):
    path = tmp_path / "huge.txt"
    with path.open("wb") as stream:
        stream.truncate(64 * DEFAULT_MAX_BYTES)
    refused(generate(autoglm, tiny_bundle, "--file", path), FAILED, "larger than")


def test_empty_standard_input(autoglm_process, tiny_bundle):
    done = generate(autoglm_process, tiny_bundle, "--file", "-")
    refused(done, FAILED, "standard input", "empty")


@pytest.mark.parametrize("command", ["generate", "chat", "bench", "score"])
def test_unknown_model_directory(autoglm, meeting, command):
    arguments = {"generate": ("hello",), "score": ("--file", meeting)}.get(command, ())
    refused(autoglm(command, *arguments, "--model", "no/such/model"), FAILED, "no/such/model")


def test_directory_without_a_model(autoglm, tmp_path):
    refused(generate(autoglm, tmp_path), FAILED, "config.json")


def test_checkpoint_in_place_of_a_bundle_is_told_to_convert(autoglm, tiny_checkpoint):
    refused(generate(autoglm, tiny_checkpoint), FAILED, "autoglm convert")


@pytest.mark.parametrize("kept", [0, 7, 500, -1])
def test_truncated_weights(autoglm, bundle, kept):
    path = bundle / "model.safetensors"
    os.truncate(path, kept if kept >= 0 else path.stat().st_size + kept)
    refused(generate(autoglm, bundle), FAILED, "model.safetensors")


def test_weights_with_bytes_after_the_end(autoglm, bundle):
    with (bundle / "model.safetensors").open("ab") as stream:
        stream.write(bytes(64))
    refused(generate(autoglm, bundle), FAILED, "model.safetensors")


def test_header_longer_than_the_file(autoglm, bundle):
    with (bundle / "model.safetensors").open("r+b") as stream:
        stream.write((2**63 - 1).to_bytes(8, "little"))
    refused(generate(autoglm, bundle), FAILED, "model.safetensors")


def edit_header(path, edit):
    """Replace the text of a safetensors header by one of the same length."""
    data = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(data[:8], "little")
    header = edit(data[8:end].decode()).encode()
    data[8:end] = header.ljust(end - 8)[: end - 8]
    path.write_bytes(data)


def test_shuffled_tensor_names(autoglm, bundle):
    edit_header(
        bundle / "model.safetensors",
        lambda text: (
            text.replace("attn.qkv.weight", "attn.zzz.weight")
            .replace("mlp.down.weight", "attn.qkv.weight")
            .replace("attn.zzz.weight", "mlp.down.weight")
        ),
    )
    refused(generate(autoglm, bundle), FAILED, "model.safetensors")


def test_duplicate_tensor_names(autoglm, bundle):
    edit_header(
        bundle / "model.safetensors",
        lambda text: text.replace("model.layers.1.", "model.layers.0."),
    )
    refused(generate(autoglm, bundle), FAILED, "model.safetensors")


def edit_config(bundle, **changes):
    path = bundle / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 128},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"vocab_size": 512},
        {"intermediate_size": 1024},
        {"num_attention_heads": -4},
        {"num_key_value_heads": 3},
        {"rms_norm_eps": "small"},
    ],
    ids=lambda change: "-".join(map(str, *change.items())),
)
def test_config_that_disagrees_with_the_tensors(autoglm, bundle, change):
    edit_config(bundle, **change)
    refused(generate(autoglm, bundle), FAILED)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1, "a": 2}', "[" * 10_000])
def test_config_that_is_not_one_json_object(autoglm, bundle, text):
    (bundle / "config.json").write_text(text, encoding="utf-8")
    refused(generate(autoglm, bundle), FAILED, "config.json")


def test_unsupported_architecture_is_named_with_the_supported_ones(
    autoglm, tiny_checkpoint, bundle, tmp_path
):
    edit_config(bundle, architectures=["MambaForCausalLM"])
    refused(generate(autoglm, bundle), FAILED, "MambaForCausalLM", "GlmForCausalLM", "Qwen3")
    source = shutil.copytree(tiny_checkpoint, tmp_path / "source")
    edit_config(source, architectures=["MambaForCausalLM"])
    done = autoglm("convert", source, tmp_path / "out")
    refused(done, FAILED, "MambaForCausalLM", "GlmForCausalLM")
    assert not (tmp_path / "out").exists()


def test_tokenizer_that_does_not_fit_the_vocabulary(autoglm, bundle):
    path = bundle / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    more = {f"more{number}": number for number in range(len(tokenizer["model"]["vocab"]), 400)}
    tokenizer["model"]["vocab"] |= more
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    refused(generate(autoglm, bundle), FAILED, "tokenizer")


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_tokenizer_that_is_none(autoglm, bundle, text):
    (bundle / "tokenizer.json").write_text(text, encoding="utf-8")
    refused(generate(autoglm, bundle), FAILED, "tokenizer.json")


def test_tokenizer_that_is_a_pipe(autoglm, bundle):
    (bundle / "tokenizer.json").unlink()
    os.mkfifo(bundle / "tokenizer.json")
    refused(generate(autoglm, bundle), FAILED, "tokenizer.json", "not a regular file")


def test_tokenizer_that_is_a_link_out_of_the_bundle(autoglm, bundle, tmp_path):
    (bundle / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (bundle / "tokenizer.json").symlink_to(tmp_path / "tokenizer.json")
    refused(generate(autoglm, bundle), FAILED, "tokenizer.json", "leads out")


def test_disk_full_while_converting_leaves_nothing(autoglm_process, tiny_checkpoint, tmp_path):
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = autoglm_process("convert", tiny_checkpoint, tmp_path / "out", preexec_fn=limit_file_size)
    refused(done, FAILED, "free some space")
    assert list(tmp_path.iterdir()) == []


def test_convert_does_not_write_into_a_used_directory(autoglm, tiny_checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    refused(autoglm("convert", tiny_checkpoint, tmp_path), FAILED, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-tokens", "0"),
        ("--max-tokens", "-5"),
        ("--max-tokens", "many"),
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--seed", "-1"),
        ("--threads", "0"),
        ("--threads", "9999999"),
    ],
)
def test_option_out_of_range(autoglm, tiny_bundle, option, value):
    done = autoglm("generate", "hello", "--model", tiny_bundle, option, value)
    refused(done, WRONG_USAGE, value)


def test_empty_prompt(autoglm, tiny_bundle):
    refused(autoglm("generate", "  ", "--model", tiny_bundle), WRONG_USAGE, "prompt is empty")


def test_prompt_that_is_not_utf8(autoglm_process, tiny_bundle):
    done = autoglm_process("generate", os.fsdecode(b"caf\xe9"), "--model", tiny_bundle)
    refused(done, FAILED, "not UTF-8")


def test_chat_line_that_is_not_utf8(autoglm_process, tiny_bundle):
    done = autoglm_process("chat", "--model", tiny_bundle, stdin=b"caf\xe9\n")
    refused(done, FAILED, "not UTF-8")


def test_prompt_longer_than_the_context(autoglm, tiny_bundle):
    done = autoglm("generate", "long " * 2000, "--model", tiny_bundle)
    refused(done, WRONG_USAGE, "context")


def test_bench_beyond_the_context(autoglm, tiny_bundle):
    done = autoglm("bench", "--model", tiny_bundle, "--depth", 10_000)
    refused(done, WRONG_USAGE, "context")


@pytest.mark.parametrize("options", [("--window", 8192 * 2), ("--window", 8, "--stride", 8)])
def test_score_window_that_cannot_be(autoglm, tiny_bundle, meeting, options):
    done = autoglm("score", "--model", tiny_bundle, "--file", meeting, *options)
    refused(done, WRONG_USAGE, options[-2])


def test_more_threads_than_the_system_gives(autoglm_process, tiny_bundle):
    def limit_address_space():
        resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, 64 << 20))
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    limited = partial(autoglm_process, preexec_fn=limit_address_space)
    done = generate(limited, tiny_bundle, "--threads", 128)
    refused(done, FAILED, "of 128", "use fewer threads")


def test_unknown_instruction_set(autoglm_process, tiny_bundle):
    environment = {**os.environ, "AUTOGLM_ISA": "mmx"}
    done = generate(lambda *a: autoglm_process(*a, env=environment), tiny_bundle)
    assert done.exit_code in (FAILED, WRONG_USAGE)
    refused(done, done.exit_code, "mmx")
