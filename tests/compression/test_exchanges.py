"""Rows of a task: read strictly, met in the chat form, asked, and scored with intervals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoglm.cli.compress_task import compared_scores, rouge1_of
from autoglm.compression.calibration import read_sequences, read_tokens
from autoglm.compression.exchanges import Exchange, read_exchanges
from autoglm.compression.recipe import CalibrationSize
from autoglm.errors import InputError

VOCAB = 50
TEMPLATE = "{% for m in messages %}w1 {{ m.content }} w9 {% endfor %}"


@pytest.fixture
def rows(tmp_path):
    """Write rows, some of them as they are."""

    def write(*contents: object) -> Path:
        path = tmp_path / "task.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in contents]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def row(prompt: str, text: str, reference: str) -> dict[str, str]:
    return {"prompt": prompt, "text": text, "reference": reference}


def sequences(path: Path, model: Path, num: int, tokens: int) -> list[list[int]]:
    size = CalibrationSize(num_sequences=num, sequence_tokens=tokens)
    return read_sequences(path, model, vocab_size=VOCAB, size=size).tolist()


def test_rows_are_met_in_the_models_chat_form(source, rows):
    (source / "chat_template.jinja").write_text(TEMPLATE)
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w2"}))
    path = rows(row("w3", "w4", "w5"), {"text": "w6 w7"})
    assert sequences(path, source, 1, 8) == [[1, 3, 4, 9, 5, 2, 6, 7]]


def test_answers_and_texts_alone_are_what_is_learnt(source, rows):
    tokens = read_tokens(rows(row("w3 w4", "", "w5"), {"text": "w6 w7"}), source, vocab_size=VOCAB)
    assert [tokens.ids[begin:end] for begin, end in tokens.learnt] == [[5], [6, 7]]


def test_sequences_begin_where_rows_do(source, rows):
    path = rows(*({"text": f"w{number} w20 w21"} for number in range(10)))
    found = sequences(path, source, 3, 4)
    assert [ids[0] for ids in found] == [0, 4, 8]
    assert all(ids[1:3] == [20, 21] for ids in found)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "line 2 is not JSON"),
        ('["w1"]', "line 2 is no object"),
        ({"prompt": "w1", "answer": "w2"}, "line 2 is no object"),
        ({"prompt": "w1", "reference": 5}, "line 2 has a value that is no string"),
        ({"prompt": "w1", "text": "w2"}, "line 2 needs a prompt and a reference"),
        ({"text": "w1"}, "row 2 has a text alone"),
    ],
)
def test_what_is_no_row_is_named(rows, line, what):
    with pytest.raises(InputError, match=what):
        read_exchanges(rows(row("w1", "", "w2"), line))


def test_file_without_rows_is_refused(rows):
    with pytest.raises(InputError, match="empty"):
        read_exchanges(rows(" "))


def test_line_separators_within_strings_end_no_row(rows):
    [found] = read_exchanges(rows(json.dumps(row("a\u2028b", "", "c"), ensure_ascii=False)))
    assert found == Exchange(prompt="a\u2028b", text=None, reference="c")


def test_difference_is_that_of_pairs():
    others = np.linspace(0.0, 100.0, 50)
    score = compared_scores("t", others - 2.0, others)
    assert score.difference == score.difference_low == pytest.approx(-2.0)
    assert score.rouge1 == pytest.approx(48.0) and score.reference == pytest.approx(50.0)
    assert score.relative_percent == pytest.approx(-4.0)
    assert score.rouge1_high - score.rouge1_low > 10.0  # rows differ far more than pairs


def test_bundle_answers_every_row_the_same_way_again(tiny_bundle):
    asked = [Exchange(prompt="Say it", text="one two", reference="one two")] * 2
    seen: list[int] = []
    [first], [again] = (rouge1_of(tiny_bundle, [asked], seen.append) for _ in range(2))
    assert seen == [1, 2, 1, 2]
    assert first.tolist() == again.tolist() and first[0] == first[1]


def test_eval_scores_a_task_beside_bf16(source, rows, tmp_path):
    path = rows(row("w3 w4", "w5", "w6 w7"), row("w8", "", "w9"))
    command = [sys.executable, "-m", "autoglm", "compress", str(source), "--json", "--eval"]
    command += ["--out", str(tmp_path / "out"), "--eval-task", str(path)]
    command += ["--eval-text", str(tmp_path / "words.txt")]
    (tmp_path / "words.txt").write_text("w1 w2 " * 200)
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    [score] = json.loads(done.stdout)["task"]
    assert score["task"] == "task" and score["num_rows"] == 2
    assert score["rouge1_low"] <= score["rouge1"] <= score["rouge1_high"]
    assert score["difference"] == pytest.approx(score["rouge1"] - score["reference"])


def test_task_is_looked_at_before_any_work(source, rows, tmp_path):
    command = [sys.executable, "-m", "autoglm", "compress", str(source), "--eval"]
    command += ["--out", str(tmp_path / "out"), "--eval-task", str(rows({"text": "w1"}))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "row 1 has a text alone" in done.stderr
    assert not (tmp_path / "out").exists()
