"""Synthetic targets: attributed, found in the text, and right about what is missing."""

import json
import random

import pytest

from autoglm.lite import synthetic, tasks
from autoglm.lite.salience import Salience, compress, sentences
from autoglm.lite.transcripts import Turn, chunks, parse_turns, rename, render


def test_lines_without_a_speaker_continue_the_turn():
    turns = parse_turns("会议纪录\n张伟：第一点。\n第二点。\n李娜：好的。", "zh")
    assert turns == [Turn("张伟", "第一点。第二点。"), Turn("李娜", "好的。")]


def test_renaming_changes_speaker_and_mention_alike():
    turns = [Turn("Tom Hill", "Hello Ann Lee."), Turn("Ann Lee", "Hi Tom Hill.")]
    tom, ann = rename(turns, "en", random.Random(1))
    assert tom.text == f"Hello {ann.speaker}."
    assert ann.text == f"Hi {tom.speaker}."
    assert tom.speaker not in ("Tom Hill", ann.speaker)


def test_chunks_respect_the_limit_and_keep_whole_turns():
    turns = [Turn(f"P{i}", "x" * 40 + ".") for i in range(20)]
    runs = list(chunks(turns, 200))
    assert max(len(render(run, "en")) for run in runs) <= 240
    assert all(turn in turns for run in runs for turn in run)


def test_sentences_keep_decimals_together():
    assert sentences("It is 3.5 percent. Good!", "en") == ["It is 3.5 percent.", "Good!"]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("那么，我们下周一上线，谢谢大家。", "我们下周一上线"),
        ("好的，然后预算是十万元。", "预算是十万元"),
    ],
)
def test_compress_drops_openers_and_thanks(sentence, expected):
    assert compress(sentence, "zh", 40) == expected


def test_key_points_are_attributed_and_taken_from_the_text():
    turns = [
        Turn("张伟", "预算方面，新版系统的预算是五十万元，需要财务部门确认。大家好。"),
        Turn("李娜", "我建议把系统的上线时间推迟到六月十八日。"),
        Turn("王强", "嗯。"),
    ]
    salience = Salience([turn.text for turn in turns], "zh")
    example = tasks.key_points(turns, salience, random.Random(2))
    assert example is not None
    assert example.answer.splitlines() == [
        "- 张伟表示，预算方面，新版系统的预算是五十万元，需要财务部门确认。",
        "- 李娜建议把系统的上线时间推迟到六月十八日。",
    ]


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_invented_meetings_answer_only_with_what_was_said(lang):
    stream = synthetic.examples(lang, random.Random(7))
    for _ in range(60):
        example = next(stream)
        text = example.text.lower()
        if example.answer.startswith("["):
            for row in json.loads(example.answer):
                assert row["owner"] in example.text
        elif example.answer.startswith("- "):
            for line in example.answer.splitlines():
                digits = "".join(c if c.isdigit() else " " for c in line).split()
                assert all(number in text for number in digits)


def test_examples_are_the_same_for_the_same_seed():
    one, two = (synthetic.examples("zh", random.Random(5)) for _ in range(2))
    assert [next(one) for _ in range(5)] == [next(two) for _ in range(5)]
