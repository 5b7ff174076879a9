"""`autoglm generate` and `chat` over a tiny model: forms of output, options, where it goes."""

import json

import pytest

PROMPT = "请总结以下会议记录要点"


@pytest.fixture
def generate(autoglm, tiny_bundle):
    def run(*arguments):
        return autoglm("generate", PROMPT, "--model", tiny_bundle, "--max-tokens", 8, *arguments)

    return run


def test_answer_goes_to_stdout_and_nothing_to_stderr(generate, meeting):
    done = generate("--file", meeting, "--offline")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")


def test_json_has_the_documented_keys(generate, meeting):
    answer = json.loads(generate("--file", meeting, "--json").stdout)
    assert set(answer) >= {"text", "route", "usage", "timings"}
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens"] > len(meeting.read_bytes())
    assert set(answer["timings"]) == {"load_ms", "first_token_ms", "total_ms"}
    assert 0 < answer["timings"]["load_ms"] < answer["timings"]["first_token_ms"]
    assert answer["route"]["engine"] == "local"


def test_plain_streamed_and_json_answers_are_the_same_text(generate):
    text = json.loads(generate("--json").stdout)["text"]
    assert generate().stdout == text + "\n"
    assert generate("--stream").stdout == text + "\n"


def test_streamed_json_is_one_document_a_line_and_ends_with_the_result(generate):
    *chunks, last = map(json.loads, generate("--stream", "--json").stdout.splitlines())
    assert "".join(chunk["text"] for chunk in chunks) == last["text"]
    assert last["usage"]["completion_tokens"] == 8


def test_seed_repeats_a_sampled_answer(generate):
    sampled = [generate("--temperature", 2, "--seed", seed).stdout for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1]
    assert sampled[0] != sampled[2]


def test_text_is_read_from_standard_input(autoglm_process, tiny_bundle, meeting):
    arguments = ("generate", PROMPT, "--model", tiny_bundle, "--max-tokens", 8)
    piped = autoglm_process(*arguments, "--file", "-", stdin=meeting.read_bytes())
    assert piped.exit_code == 0
    assert piped.stdout == autoglm_process(*arguments, "--file", meeting).stdout


def test_long_text_is_read_in_parts_and_says_so(generate, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("".join(f"王芳：第{n}项已经完成。\n" for n in range(400)), encoding="utf-8")
    done = generate("--file", path, "--json")
    assert json.loads(done.stdout)["route"]["num_parts"] > 1
    assert "parts" in done.stderr
    assert done.stderr.count("\n") == 1


def test_threads_do_not_change_the_answer(generate):
    assert generate("--threads", 1).stdout == generate("--threads", 2).stdout


def test_model_may_come_from_the_environment(autoglm, tiny_bundle, monkeypatch):
    monkeypatch.setenv("AUTOGLM_MODEL", str(tiny_bundle))
    answer = json.loads(autoglm("generate", PROMPT, "--max-tokens", 2, "--json").stdout)
    assert answer["route"]["model"] == tiny_bundle.name


def chat(autoglm_process, tiny_bundle, lines, *options):
    stdin = "".join(f"{line}\n" for line in lines).encode()
    arguments = ("chat", "--model", tiny_bundle, "--max-tokens", 4, *options)
    return autoglm_process(*arguments, stdin=stdin)


def test_chat_keeps_the_turns_until_reset(autoglm_process, tiny_bundle):
    lines = ["hello", "hello", "/reset", "hello", "/exit", "never read"]
    done = chat(autoglm_process, tiny_bundle, lines, "--json")
    first, second, after_reset = map(json.loads, done.stdout.splitlines())
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert after_reset["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"]
    assert after_reset["text"] == first["text"]


def test_chat_help_and_unknown_commands_go_to_stderr(autoglm_process, tiny_bundle):
    done = chat(autoglm_process, tiny_bundle, ["/help", "/sing", ""])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "/reset" in done.stderr
    assert "unknown command /sing" in done.stderr


def test_chat_ends_with_its_input(autoglm_process, tiny_bundle):
    assert chat(autoglm_process, tiny_bundle, []).exit_code == 0
