"""Scores equal their definitions on worked examples; a run resumes; the command scores LITE."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoglm.cli.main import main
from autoglm.errors import InputError, UsageError
from autoglm.lite.evaluation import baselines, plot, samples
from autoglm.lite.evaluation.items import TASKS, Item, Task, load_items
from autoglm.lite.evaluation.probe import classify
from autoglm.lite.evaluation.scores import answer_scores, is_refusal, rouge, unsupported
from autoglm.lite.evaluation.suite import AnswerFile, run_task
from autoglm.lite.tasks import NOT_FOUND

SLICE = Path(__file__).parents[2] / "examples" / "eval"
BY_NAME = {task.name: task for task in TASKS}


def test_english_rouge_stems_words():
    scores = rouge("The cats sat on the mat.", "A cat sat.", "en")
    assert scores["rouge1"] == pytest.approx(100 * 4 / 9)  # 2 of 3 words, of 6
    assert scores["rouge2"] == pytest.approx(100 * 2 / 7)  # 1 of 2 pairs, of 5


def test_chinese_rouge_counts_characters():
    scores = rouge("会议决定上线", "决定上线。", "zh")
    assert scores["rouge1"] == pytest.approx(80.0)  # 4 of 4 characters, of 6
    assert scores["rougeL"] == pytest.approx(80.0)


def test_rouge_lsum_compares_sentences_whose_order_rouge_l_minds():
    scores = rouge("One two three. Four five six.", "Four five six. One two three.", "en")
    assert scores["rougeLsum"] == pytest.approx(100.0)
    assert scores["rougeL"] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("reference", "answer", "lang", "em", "f1"),
    [
        ("Denver Broncos", "the Denver Broncos!", "en", 100, 100),
        ("Denver Broncos", "Broncos", "en", 0, 100 * 2 / 3),
        ("1938年3月", "在1938年3月。", "zh", 0, 100 * 8 / 9),
        ("1938年3月", "1938年3月。", "zh", 100, 100),
        ("北京大学", "北方大学", "zh", 0, 50),  # the longest common run has two characters
        ("Broncos", "", "en", 0, 0),
    ],
)
def test_answers_are_scored_as_squad_and_cmrc_do(reference, answer, lang, em, f1):
    scores = answer_scores((reference,), answer, lang)
    assert scores == {"em": pytest.approx(em), "f1": pytest.approx(f1)}


def test_the_best_reference_counts():
    assert answer_scores(("Denver", "Denver Broncos"), "Denver", "en")["em"] == 100


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_what_training_teaches_as_a_refusal_is_one(lang):
    assert is_refusal(NOT_FOUND[lang])
    assert not is_refusal("The council agreed to spend 300 dollars; 会议同意。")


def test_names_and_numbers_that_the_source_lacks_are_counted():
    assert unsupported("张伟表示，预算是300万元", "张伟：预算是200万元。", "zh") == (1, 2)
    assert unsupported("Then Tom Hill asked for 300.", "Ann Lee: 300 dollars", "en") == (1, 2)


SENTENCES = [
    "The budget for the new library roof is still open.",
    "Somebody brought coffee and cake this morning.",
    "We discussed the budget of the library roof at length.",
    "The library roof needs its budget before the winter.",
]


def test_textrank_prefers_the_central_sentence_and_keeps_the_budget():
    source = baselines.extract("\n".join(SENTENCES), "en")
    summary = baselines.textrank(source, 10)
    assert summary in SENTENCES
    assert "coffee" not in summary


def test_the_oracle_is_no_worse_than_any_extract():
    source = baselines.extract("\n".join(SENTENCES), "en")
    reference = "The library roof needs a budget; coffee was brought."
    best = rouge(reference, baselines.oracle(source, reference), "en")["rouge1"]
    assert best >= max(rouge(reference, sentence, "en")["rouge1"] for sentence in SENTENCES)


def test_half_the_questions_are_asked_of_a_text_without_their_answer(tmp_path):
    records = [
        {
            "context": f"{city} is the capital of {land}.",
            "qas": [{"question": f"Capital of {land}?", "answers": [{"text": city}]}],
        }
        for city, land in [("Paris", "France"), ("Rome", "Italy"), ("Oslo", "Norway")] * 4
    ]
    path = tmp_path / "qa_xquad" / "en.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, records)))
    items = load_items(tmp_path, BY_NAME["missing_en"])
    missing = [item for item in items if not item.references]
    assert len(missing) == len(items) / 2 == 6
    for item in missing:
        land = item.prompt.removeprefix("Capital of ").rstrip("?")
        assert land not in item.text


def test_a_limit_spreads_over_the_set():
    everything = load_items(SLICE, BY_NAME["clinc150"])
    some = load_items(SLICE, BY_NAME["clinc150"], 3)
    assert some == [everything[0], everything[4], everything[8]]


def test_a_file_of_another_form_is_an_input_error(tmp_path):
    (tmp_path / "sum_vcsum").mkdir()
    (tmp_path / "sum_vcsum" / "short_dev.jsonl").write_text('{"context": 3}\n')
    with pytest.raises(InputError, match="not in the form of vcsum"):
        load_items(tmp_path, BY_NAME["vcsum"])


def perfect(item: Item, max_tokens: int) -> str:
    return item.references[0] if item.references else NOT_FOUND[item.lang]


@pytest.mark.parametrize("name", ["vcsum", "clinc150"])
def test_the_references_themselves_score_full_marks(name):
    items = load_items(SLICE, BY_NAME[name])
    report = run_task(BY_NAME[name], items, perfect, AnswerFile(None, "m"), lambda done: None)
    metric = "rouge1" if name == "vcsum" else "accuracy"
    assert report["model"][metric] == 100.0


def test_facts_score_pairs_and_valid_json():
    wanted = '{"dates": ["Friday"], "amounts": ["$3", "$4"]}'
    items = [Item("p", text, (wanted,), "en") for text in ("one", "two")]
    answers = iter(['{"dates": ["friday"], "amounts": ["$3", "$9"]}', "no JSON"])
    task = Task("facts", "facts", "f", lambda records: iter(()), 1)
    report = run_task(task, items, lambda i, n: next(answers), AnswerFile(None, "m"), print)
    assert report["model"] == {"valid_json_percent": 50.0, "field_f1": round(200 * 2 / 9, 2)}


def test_the_probe_finds_classes_that_a_line_separates():
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(5, 16)) * 3
    labels = np.repeat(np.arange(5), 20)
    states = (centres[labels] + generator.normal(size=(100, 16))).astype(np.float32)
    guesses = classify(states[::2], labels[::2], states[1::2])
    assert (guesses == labels[1::2]).mean() > 0.9


def test_a_second_run_asks_only_what_is_left(tmp_path):
    path = tmp_path / "answers.jsonl"
    items = load_items(SLICE, BY_NAME["clinc150"], 4)
    asked: list[str] = []

    def answer(item: Item, max_tokens: int) -> str:
        asked.append(item.text)
        return perfect(item, max_tokens)

    task = BY_NAME["clinc150"]
    run_task(task, items[:2], answer, AnswerFile(path, "m"), lambda done: None)
    report = run_task(task, items, answer, AnswerFile(path, "m"), lambda done: None)
    assert asked == [item.text for item in items]
    assert report["num"] == 4
    with pytest.raises(InputError, match="another model"):
        AnswerFile(path, "other")


def test_a_run_with_another_limit_takes_no_answer_of_another_question(tmp_path):
    path = tmp_path / "answers.jsonl"
    task = BY_NAME["clinc150"]
    for limit in (3, 4, 12):
        items = load_items(SLICE, task, limit)
        report = run_task(task, items, perfect, AnswerFile(path, "m"), lambda done: None)
        assert report["model"]["accuracy"] == 100.0
    assert len(path.read_text().splitlines()) == 1 + 12


def test_a_file_that_holds_no_answers_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello\n")
    with pytest.raises(InputError, match="not a file of answers"):
        AnswerFile(path, "m")
    assert path.read_text() == "hello\n"


def test_the_command_scores_the_embedded_model(capsys):
    assert main(["eval", "--data", str(SLICE), "--limit", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["tasks"]) == {"vcsum", "facts", "clinc150", "clinc150_probe"}
    assert set(report["tasks"]["vcsum"]) == {
        "num",
        "seconds",
        "model",
        "lead3",
        "textrank",
        "oracle",
    }
    assert report["tasks"]["vcsum"]["oracle"]["rouge1"] > 20
    assert "qmsum" in report["missing"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (["--data", "/no/such"], InputError, "not a directory"),
        (["--data", str(SLICE), "--tasks", "nope"], UsageError, "unknown task"),
        (["--data", str(SLICE), "--tasks", "qmsum"], InputError, "none of the sets"),
    ],
)
def test_a_wrong_call_is_one_clear_error(options, error, match):
    with pytest.raises(error, match=match):
        main(["eval", *options])


def test_baselines_may_be_left_out():
    task = BY_NAME["vcsum"]
    items = [Item("请总结", "发言人1：我们周五上线。\n发言人2：好的。", ("周五上线",), "zh")]
    kept = AnswerFile(None, "m")
    report = run_task(task, items, lambda i, n: "上线", kept, print, has_baselines=False)
    assert report.keys() == {"num", "seconds", "model"}


def test_scores_are_drawn_beside_those_of_the_baselines(tmp_path):
    scores = {"num": 2, "seconds": 1.0, "model": {"rouge1": 40.0}, "lead3": {"rouge1": 20.0}}
    text = {"num": 9, "model": {"perplexity": 30.0}}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"tasks": {"vcsum": scores, "wikitext2": text}}))
    later = tmp_path / "later.json"
    scores["model"]["rouge1"] = 41.5
    later.write_text(json.dumps({"tasks": {"vcsum": scores}}))
    rows = plot.read_rows([report, later])
    assert [row.label for row in rows] == ["vcsum (2), ROUGE-1"]
    drawn = plot.draw(rows)
    assert ">41.5<" in drawn
    assert ">20.0<" in drawn
    report.write_text("[]")
    with pytest.raises(InputError):
        plot.read_rows([report])


def test_samples_are_sorted_by_their_score(tmp_path):
    path = tmp_path / "answers.jsonl"
    entries = [
        {"task": "xquad_en", "prompt": "Q", "references": ["Denver"], "answer": answer}
        for answer in ("Boston", "Denver", "Denver Broncos")
    ]
    lines = [{"model": "m"}, *entries, {"task": "clinc150"}]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = samples.scored(path, "xquad_en")
    assert [entry["answer"] for _, entry in found] == ["Denver", "Denver Broncos", "Boston"]
    with pytest.raises(InputError):
        samples.scored(path, "clinc150")
    with pytest.raises(InputError):
        samples.scored(tmp_path / "none", "xquad_en")
