"""The corpus: every text once, counted by source, read as often as its size and weight say."""

import json
import random
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

from autoglm.lite import corpus
from autoglm.lite.data_card import table
from autoglm.lite.dialogue_records import crosswoz, friendsqa
from autoglm.lite.packed import PackedRows
from autoglm.lite.sources import TEXT_SOURCES, Paragraphs
from autoglm.lite.tasks import NOT_FOUND


@pytest.fixture(scope="module")
def built(data_dir, tokenizer_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    arguments = ["corpus", "--data", str(data_dir), "--tokenizer", str(tokenizer_file)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*arguments, "--out", str(out), "--row-tokens", "64"])
        corpus.main()
    return out


def test_the_card_counts_what_the_files_hold_under_a_licence(built):
    card = json.loads((built / "card.json").read_text())
    for source in card["sources"]:
        size = (built / f"tokens_{source['name']}.bin").stat().st_size
        assert source["tokens"] == size / 2
        assert len(source["licence"]) == 2
    assert card["tokens"] == sum(source["tokens"] for source in card["sources"])
    assert [source["name"] for source in card["sources"]] == [s.name for s in TEXT_SOURCES]


def test_tokens_decode_to_the_text_they_came_from(built, tokenizer_file):
    ids = np.fromfile(built / f"tokens_{TEXT_SOURCES[0].name}.bin", dtype=np.uint16)
    text = Tokenizer.from_file(str(tokenizer_file)).decode(ids[:400].tolist())
    assert "测试报告，预算是" in text


def test_a_source_whose_texts_all_came_before_holds_end_marks_only(built):
    """The tiny sets of one language are the same texts, so only the first source keeps them."""
    sizes = {path.name: path.stat().st_size for path in built.glob("tokens_*.bin")}
    later = [source.name for source in TEXT_SOURCES if source.lang == "zh"][1:]
    assert all(sizes[f"tokens_{name}.bin"] == 0 for name in later)
    assert sizes[f"tokens_{TEXT_SOURCES[0].name}.bin"] > 0


def test_training_reads_the_folder_and_its_repeats(built):
    rows = PackedRows(built)
    card = json.loads((built / "card.json").read_text())
    repeat = {source["name"]: source["repeat"] for source in card["sources"]}
    assert rows.num_rows == sum(span.num_rows for span in rows.spans)
    assert {span.repeat for span in rows.spans} <= set(repeat.values())


def test_paragraphs_that_differ_in_digits_and_case_count_as_one():
    seen = Paragraphs()
    assert seen.is_new("The committee met for the 12th time in 2019.")
    assert not seen.is_new("THE committee met for the  13th time in 2020.")
    assert seen.is_new("Short line 1")
    assert seen.is_new("Short line 1")
    assert seen.num_dropped == 1


def test_small_sources_repeat_more_and_no_more_than_allowed():
    names = [source.name for source in TEXT_SOURCES if source.weight == 1.5][:2]
    readings = corpus.repeats({names[0]: 10_000, names[1]: 1_000_000}, temperature=0.5, most=4.0)
    assert readings[names[0]] == 4.0
    assert 0.5 < readings[names[1]] < 1.0


def test_fields_and_answers_of_dialogues_stand_in_them(data_dir):
    examples = [
        *crosswoz(data_dir, 2000, random.Random(1)),
        *friendsqa(data_dir, 2000, random.Random(1)),
    ]
    assert {example.source for example in examples} == {"crosswoz", "friendsqa"}
    for example in examples:
        if example.answer.startswith("{"):
            values = json.loads(example.answer).values()
        else:
            values = [example.answer]
        refusals = NOT_FOUND.values()
        assert all(value in example.text or value in refusals for value in values)


def test_the_data_card_adds_tasks_to_the_source_they_were_made_from(tmp_path):
    def card(name, *sources):
        entries = [
            {"name": source, "tokens": tokens, "licence": ["permissive", "MIT"]}
            for source, tokens in sources
        ]
        (tmp_path / name).write_text(json.dumps({"sources": entries}))
        return tmp_path / name

    text = table([card("a", ("notes", 2000), ("laws", 9000)), card("b", ("notes/title", 3000))])
    assert text.splitlines()[2:] == [
        "| laws | permissive | MIT | 9 |",
        "| notes | permissive | MIT | 5 |",
        "| **all** | | | 14 |",
    ]
