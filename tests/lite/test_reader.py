"""What the shipped reader answers: from the text only, and only what it was asked."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoglm.errors import ModelFileError
from autoglm.lite.reader.intents import grams
from autoglm.lite.reader.reader import NOT_FOUND, Reader
from autoglm.lite.reader.reported import clean
from autoglm.lite.reader.requests import recognise
from autoglm.lite.reader.text import language, read_document, terms
from autoglm.lite.reader.weights import READER_NAME, read_tensors, write_tensors
from autoglm.types import Grammar, Message, Request, SamplingParams, Tool

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "src/autoglm/lite/bundle"
MEETING_EN = (ROOT / "examples/meeting_en.txt").read_text()
MEETING_ZH = (ROOT / "examples/meeting_zh.txt").read_text()


@pytest.fixture(scope="module")
def reader() -> Reader:
    found = Reader.of_bundle(BUNDLE)
    assert found is not None
    return found


def ask(prompt: str, text: str | None = None, **options) -> Request:
    return Request(messages=(Message("user", prompt),), text=text, **options)


def answer(reader: Reader, prompt: str, text: str | None = None) -> str | None:
    asked = recognise(ask(prompt, text))
    assert asked is not None
    return reader.answer(asked)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("请总结以下会议记录要点", "summary"),
        ("Summarize the whole meeting.", "summary"),
        ("陈静说了什么？", "summary"),
        ("What is the intent of this utterance?", "intent"),
        ("这句话的意图是什么？", "intent"),
        ("List the speakers", "speakers"),
        ("参会人员有谁？", "speakers"),
        ("有哪些待办事项？", "actions"),
        ("Extract the dates as JSON", "facts"),
        ("When does it open?", "answer"),
        ("谁负责宣传？", "answer"),
        ("What year was the song released?", "answer"),
        ("Into what language did she translate the anthem?", "answer"),
        ("How many points were scored in the last minutes of the game?", "answer"),
        ("Name one of the causes", "answer"),
        ("What are the main points?", "summary"),
        ("How would you rewrite this?", None),
        ("Make it into a haiku", None),
        ("Write me a poem about it", None),
        ("Translate this into Chinese", None),
        ("给下面的文字起一个标题", None),
        ("Rewrite the summary as a poem", None),
        ("Hello there", None),
    ],
)
def test_the_instruction_says_what_is_asked(prompt, kind):
    asked = recognise(ask(prompt, MEETING_EN))
    assert (asked and asked.kind) == kind


@pytest.mark.parametrize(
    "request_",
    [
        ask("Summarize"),
        ask("Summarize", " \n"),
        ask("Summarize", MEETING_EN, grammar=Grammar("regex", "a+")),
        ask("Summarize", MEETING_EN, sampling=SamplingParams(num_logprobs=1)),
        ask("Summarize", MEETING_EN, tools=(Tool("f", "", "{}"),)),
        ask("Summarize " + "very " * 100, MEETING_EN),
        Request(prompt="Summarize"),
    ],
)
def test_what_has_no_text_or_a_form_of_its_own_goes_to_the_model(request_):
    assert recognise(request_) is None


@pytest.mark.parametrize("message", [f"Summarize:\n{MEETING_EN}", f"{MEETING_EN}\nSummarize this"])
def test_one_message_may_hold_instruction_and_text(message):
    asked = recognise(ask(message))
    assert asked is not None
    assert asked.text in message
    assert "Priya Nair" in asked.text


def test_a_chat_goes_on_about_its_latest_long_message():
    messages = (
        Message("user", MEETING_EN),
        Message("assistant", "What about it?"),
        Message("user", "Summarize what David Okoro said"),
    )
    asked = recognise(Request(messages=messages))
    assert asked is not None
    assert asked.text == MEETING_EN


def test_languages_and_header_fields_are_told_from_speakers():
    assert (language(MEETING_ZH), language(MEETING_EN)) == ("zh", "en")
    document = read_document(MEETING_ZH)
    assert document.is_dialogue
    assert {s.speaker for s in document.sentences} == {"", "周敏", "刘洋", "陈静", "王磊", "孙丽"}


def test_a_plain_text_has_no_speakers():
    document = read_document("The sky is blue today. Nobody knows why.\n\nIt may rain.")
    assert not document.is_dialogue
    assert [s.text for s in document.sentences] == [
        "The sky is blue today.",
        "Nobody knows why.",
        "It may rain.",
    ]


def test_terms_are_stems_and_pairs_of_characters():
    assert terms("The meetings decided 3.5 things") == ["meet", "decid", "3.5"]
    assert terms("会议决定") == ["会议", "议决", "决定"]


def test_fillers_and_stutters_are_left_out():
    said = "Um, so I th think we we should, you know, really ship it ."
    assert clean(said, "en") == "I think we should, ship it"
    assert clean("然后呢，这个预算就是三万元对吧。", "zh") == "预算三万元"


def test_summaries_of_meetings_hold_only_what_was_said(reader):
    for text, prompt in ((MEETING_EN, "Summarize this meeting"), (MEETING_ZH, "请总结要点")):
        summary = answer(reader, prompt, text)
        assert summary is not None
        assert summary.count("\n- ") >= 2
        assert len(summary) < len(text) / 2
        have = set(terms(text)) | set(terms("said thought asked they group was were would had"))
        new = [term for term in terms(summary) if term not in have]
        assert len(new) <= 0.05 * len(terms(summary)), new


def test_a_summary_about_a_person_is_what_that_person_said(reader):
    summary = answer(reader, "请总结陈静的发言", MEETING_ZH)
    assert summary is not None
    assert {line.partition("：")[0] for line in summary.split("\n")} == {"- 陈静"}


def test_a_query_decides_what_is_chosen(reader):
    answers = {
        answer(reader, f"Summarize the discussion about {topic}", MEETING_EN)
        for topic in ("the letter to patients", "cancelled slots", "telephone lines")
    }
    assert len(answers) == 3


@pytest.mark.parametrize(
    ("utterance", "intent"),
    [
        ("please move 100 dollars from checking to savings", "transfer"),
        ("what's the weather like tomorrow", "weather"),
        ("set an alarm for six am", "alarm"),
    ],
)
def test_plain_utterances_get_their_intent(reader, utterance, intent):
    assert answer(reader, "What is the intent of this utterance?", utterance) == intent
    assert answer(reader, f"What is the intent of: {utterance}") == intent


PARAGRAPH_ZH = (
    "青石桥位于江宁镇东部，始建于1736年，由当地商人陈伯年出资修建。"
    "桥长四十二米，宽五米，共有三个桥孔。"
    "1954年的洪水冲毁了东侧的桥墩，两年后由县政府重修。"
    "如今青石桥是镇上居民晚间散步的地方，每年秋天举办灯会。"
)
PARAGRAPH_EN = (
    "The Marlow Canal was opened in 1821 and connects the town of Eastbrook with the river Arne."
    " It was designed by Thomas Whitfield, who also built the harbour of Port Ellis. The canal has"
    " 27 locks and is about 14 miles long. After the railway came, traffic on the canal fell by 80"
    " percent. Today it is used by holiday boats, and its towpath is popular with cyclists."
)


@pytest.mark.parametrize(
    ("text", "question", "expected"),
    [
        (PARAGRAPH_ZH, "青石桥始建于哪一年？", "1736年"),
        (PARAGRAPH_ZH, "青石桥由谁出资修建？", "陈伯年"),
        (PARAGRAPH_EN, "How many locks does the canal have?", "27"),
    ],
)
def test_questions_are_answered_with_words_of_the_text(reader, text, question, expected):
    found = answer(reader, question, text)
    assert found is not None
    assert found in text
    assert expected in found


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (PARAGRAPH_ZH, "这部电影的导演是谁？"),
        (PARAGRAPH_EN, "Which enzyme breaks down sugar in yeast cells?"),
    ],
)
def test_a_question_that_the_text_does_not_answer_is_refused(reader, text, question):
    assert answer(reader, question, text) in NOT_FOUND.values()


def test_answers_are_found_in_long_texts(reader):
    filler = "\n".join(f"第{i}段讲的是当地的天气和收成，与别的事情无关。" for i in range(1500))
    text = f"{filler}\n{PARAGRAPH_ZH}\n{filler}"
    found = answer(reader, "青石桥由谁出资修建？", text)
    assert found is not None
    assert "陈伯年" in found


def test_what_an_earlier_text_does_not_answer_is_left_to_the_model(reader):
    messages = (
        Message("user", PARAGRAPH_EN),
        Message("user", "Which enzyme breaks down sugar in yeast cells?"),
    )
    asked = recognise(Request(messages=messages))
    assert asked is not None
    assert asked.is_earlier
    assert reader.answer(asked) is None


def test_a_text_of_millions_of_characters_is_left_to_the_model():
    assert recognise(ask("Summarize", "word " * 500_000)) is None


def test_questions_about_a_meeting_get_what_was_said_or_a_few_words(reader):
    said = answer(reader, "Why did they talk about the telephone lines?", MEETING_EN)
    assert said is not None
    assert said.startswith("- ")
    short = answer(reader, "Who runs the sessions?", MEETING_EN)
    assert short is not None
    assert "\n" not in short


def test_action_items_are_listed_or_none_are(reader):
    listed = answer(reader, "请列出会议中的待办事项", MEETING_ZH)
    assert listed is not None
    assert "- 刘洋：大字模式放到第二期，四月底之前完成，刘洋负责" in listed
    assert (
        answer(reader, "List the action items", PARAGRAPH_EN) == "There are no clear action items."
    )


def test_odd_texts_are_answered_or_left_to_the_model(reader):
    for text in (
        "。",
        "?",
        "a",
        "A:",
        "A: b",
        "\ud7ff\u0000x",
        "会议：\n",
        "1 " * 400,
        "哦。" * 500,
    ):
        for prompt in (
            "Summarize",
            "总结",
            "What is the intent of this?",
            "List the speakers",
            "Who?",
            "几点？",
            "List the action items",
            "dates, times, amounts, phones as JSON",
        ):
            asked = recognise(ask(prompt, text))
            assert asked is None or reader.answer(asked) != ""


def test_grams_are_each_listed_once():
    assert grams("no no") == ["w:no", "b:^ no", "b:no no", "c:<no", "c:no>", "c:<no>"]


def test_a_bundle_without_a_reader_has_none(tmp_path):
    assert Reader.of_bundle(tmp_path) is None


def test_a_file_that_is_no_reader_is_refused(tmp_path):
    tensors = read_tensors(BUNDLE / READER_NAME)
    path = tmp_path / READER_NAME
    for name in (
        "rarity",
        "sentence.mean",
        "intent.names",
        "usage",
        "length",
        "answer.zh.0.none.bias",
    ):
        write_tensors(path, {key: value for key, value in tensors.items() if key != name})
        with pytest.raises(ModelFileError):
            Reader.of_bundle(tmp_path)
    broken = tensors | {"sentence.0.bias": np.full(64, np.nan, dtype=np.float32)}
    write_tensors(path, broken)
    with pytest.raises(ModelFileError, match="not finite"):
        Reader.of_bundle(tmp_path)
    write_tensors(path, tensors | {"sentence.1.weight": np.zeros((32, 7), dtype=np.float32)})
    with pytest.raises(ModelFileError, match=r"sentence\.1"):
        Reader.of_bundle(tmp_path)
    write_tensors(path, tensors | {"answer.en.0.0.weight": np.zeros((48, 48, 5), dtype=np.float32)})
    with pytest.raises(ModelFileError, match=r"layer 0 of 'answer\.en\.0'"):
        Reader.of_bundle(tmp_path)
    path.write_bytes(b"not tensors")
    with pytest.raises(ModelFileError):
        Reader.of_bundle(tmp_path)


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    tensors = read_tensors(BUNDLE / READER_NAME)
    write_tensors(tmp_path / "again", tensors)
    assert (tmp_path / "again").read_bytes() == (BUNDLE / READER_NAME).read_bytes()
    assert len(json.loads(tensors["intent.names"].tobytes())) == 150 + 1


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("What did they decide about the parking garage?", MEETING_EN),
        ("Summarize the discussion about parking", MEETING_EN),
        ("Why did the lift break?", MEETING_EN),
        ("他们对停车场做了什么决定？", MEETING_ZH),
        ("总结关于食堂的讨论", MEETING_ZH),
    ],
)
def test_what_nobody_spoke_about_is_not_summarised(reader, question, text):
    assert answer(reader, question, text) == NOT_FOUND[language(text)]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("What did they decide about the letter to patients?", MEETING_EN),
        ("Summarize the discussion about telephone lines", MEETING_EN),
        ("What happens next?", MEETING_EN),
        ("How was the discussion?", MEETING_EN),
        ("Summarize this in three sentences", MEETING_EN),
        ("大家对大字模式有什么看法？", MEETING_ZH),
        ("会议讨论了哪些问题？", MEETING_ZH),
    ],
)
def test_what_was_spoken_about_is_summarised(reader, question, text):
    summary = answer(reader, question, text)
    assert summary is not None
    assert summary.startswith("- ")
