"""Values, action items and JSON that the reader takes from a text, and how they are scored."""

import json
from pathlib import Path

import pytest

from autoglm.lite.evaluation.facts import match
from autoglm.lite.reader import typed
from autoglm.lite.reader.actions import Action, actions
from autoglm.lite.reader.facts import asked_fields, facts, schema_fields
from autoglm.lite.reader.requests import recognise
from autoglm.lite.reader.text import read_document
from autoglm.types import Message, Request

MEETING_ZH = (Path(__file__).parents[2] / "examples/meeting_zh.txt").read_text()
TEXTS = {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("on the 4th of March, or March 4th, 2026", "en", ["4th of March", "March 4th, 2026"]),
        ("next Friday or tomorrow; in 2019", "en", ["next Friday", "tomorrow", "2019"]),
        ("the first floor may march on", "en", []),
        ("by the nineteenth, not the second time", "en", ["nineteenth"]),
        ("下周二，也就是三月十七号", "zh", ["下周二", "三月十七号"]),
        ("2026年3月12日开会，四月底完成", "zh", ["2026年3月12日", "四月底"]),
    ],
)
def test_dates_are_found_as_written(text, lang, expected):
    assert typed.dates(text, lang) == expected


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("at 8:30 pm, 9 am and half past 5 in the evening", "en", 3),
        ("下午两点到14:30", "zh", 2),
        ("chapter 8", "en", 0),
    ],
)
def test_times_are_found(text, lang, expected):
    assert len(typed.times(text, lang)) == expected


def test_amounts_are_money_and_percent():
    text = "It costs $1,250.50 or 30 euros, about 5 percent, for 3 people."
    assert typed.amounts(text, "en") == ["$1,250.50", "30 euros", "5 percent"]
    assert typed.amounts("预算一千六百元，占8%，一块做", "zh") == ["一千六百元", "8%"]


def test_addresses_and_numbers_are_found():
    text = "Write to a.b@example.org or call +1 404-524-5555, room 12."
    assert typed.emails(text, "en") == ["a.b@example.org"]
    assert typed.phones(text, "en") == ["+1 404-524-5555"]


def test_actions_have_the_owner_who_promised_or_was_asked():
    text = (
        "Ann: I'll send the report by Friday.\nBob: Fine. Ann, can you also book a room?\n"
        "Ann: Is it what I will do? I liked it.\nBob: Carl should check the numbers.\nCarl: Ok."
    )
    assert actions(read_document(text)) == [
        Action("I'll send the report by Friday", "Ann", "Friday"),
        Action("Ann, can you also book a room", "Ann", ""),
        Action("Carl should check the numbers", "Carl", ""),
    ]


def test_chinese_actions_name_who_is_responsible():
    found = actions(read_document(MEETING_ZH))
    pairs = {(action.owner, action.due) for action in found}
    assert {("刘洋", "四月底"), ("王磊", "三月二十号"), ("孙丽", "二十三号")} <= pairs


@pytest.mark.parametrize(
    ("instruction", "fields"),
    [
        ("Extract dates and amounts as JSON", {"dates": "dates", "amounts": "amounts"}),
        ("以JSON提取日期，字段为dates", {"dates": "dates"}),
        ("提取待办事项、负责人和期限，输出JSON", {"待办事项": "actions"}),
        ("JSON of the action items, owners, due dates", {"action_items": "actions"}),
        ("Give me JSON with updates", {}),
    ],
)
def test_an_instruction_names_its_fields(instruction, fields):
    assert asked_fields(instruction) == fields


def test_schemas_are_kept_to_or_left_to_the_model():
    action = {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]}
    known = {"dates": TEXTS, "action_items": {"type": "array", "items": action}}
    schema = {"type": "object", "properties": known}
    assert schema_fields(schema) == {"dates": "dates", "action_items": "actions"}
    for unknown in (
        {"type": "array", "items": TEXTS},
        {"type": "object"},
        {"type": "object", "properties": {"colour": TEXTS}},
        {"type": "object", "properties": {"dates": {"type": "string"}}},
        {"type": "object", "properties": {"dates": TEXTS | {"maxItems": 1}}},
        {"type": "object", "properties": {"dates": {"type": "array", "items": {"enum": ["x"]}}}},
    ):
        assert schema_fields(unknown) is None


def test_json_answers_are_objects_with_the_fields_asked_for():
    document = read_document(MEETING_ZH)
    found = json.loads(
        facts(document, MEETING_ZH, {"when": "dates", "who": "people", "m": "emails"})
    )
    assert "三月十七号" in found["when"]
    assert found["who"] == ["周敏", "刘洋", "陈静", "王磊", "孙丽"]
    assert found["m"] == []


def test_a_request_for_json_is_the_readers_if_it_knows_the_fields():
    def ask(prompt, **options):
        request = Request(messages=(Message("user", prompt),), text=MEETING_ZH, **options)
        return recognise(request)

    assert ask("Extract the dates as JSON").fields == {"dates": "dates"}
    assert ask("Answer as JSON") is None
    assert ask("When?", schema={"type": "object", "properties": {"dates": TEXTS}}).kind == "facts"
    assert ask("When?", schema={"type": "object"}) is None


def test_scores_compare_words_of_dates_and_tasks():
    wanted = {"dates": ["4th of March"], "amounts": []}
    assert match(wanted, '{"dates": ["March 4th", "today"]}').right == 1
    assert match(wanted, '{"dates": "the 5th of March"}').right == 0
    assert not match(wanted, "[]").is_valid
    action = {"action_items": [{"task": "send the minutes", "owner": "Ann", "due": ""}]}
    said = {"task": "I will send you the minutes soon", "owner": "Ann", "due": "soon"}
    found = match(action, json.dumps({"action_items": [said]}))
    assert (found.right, found.found, found.wanted) == (2, 3, 2)
