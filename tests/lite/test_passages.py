"""Examples over running text: the answer is in the text, or is plainly said to be missing."""

import json
import random

import pytest

from autoglm.lite import passages
from autoglm.lite.tasks import NOT_FOUND

LINES = {
    "zh": [
        "那么，我们2019年3月在《深圳报告》里说过，预算是300万元，然后大家都同意了。",
        "另外，周五之前请把测试报告发给我。",
        "这个问题我们下次再讨论。",
    ],
    "en": [
        "Well, the council met Anna Lee on Friday and agreed to spend $300 on the new roof.",
        "So, you know, the work should begin in March 2021 if the weather allows.",
        "We will talk about the rest next time.",
    ],
}


def tries(builder, lang, count=60):
    made = (builder(list(LINES[lang]), lang, random.Random(seed)) for seed in range(count))
    return [example for example in made if example]


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_a_cloze_answer_is_in_the_text_and_a_missing_one_is_not(lang):
    found = tries(passages.cloze, lang)
    assert {example.answer == NOT_FOUND[lang] for example in found} == {True, False}
    for example in found:
        if example.answer != NOT_FOUND[lang]:
            assert example.answer in example.text
            assert example.answer not in example.instruction


@pytest.mark.parametrize(
    ("lang", "dates", "amounts"),
    [("zh", ["2019年3月", "周五"], ["300万元"]), ("en", ["Friday", "March 2021"], ["$300"])],
)
def test_facts_are_valid_json_with_every_date_and_amount(lang, dates, amounts):
    answer = json.loads(tries(passages.facts, lang)[0].answer)
    assert answer == {"dates": dates, "amounts": amounts}


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_rewriting_only_drops(lang):
    for example in tries(passages.rewrite, lang):
        assert len(example.answer) < len(example.text)
        assert example.answer[3:-1].lower() in example.text.lower()


def test_a_title_is_a_short_first_line_without_an_end_mark():
    article = [
        "五个有用的命令",
        "本文介绍五个在日常工作中很有用的命令行工具。" * 2,
        "第一个是 ls。",
    ]
    example = passages.title(article, "zh", random.Random(1))
    assert example.answer == article[0]
    assert article[0] not in example.text
    assert passages.title(article[1:], "zh", random.Random(1)) is None
