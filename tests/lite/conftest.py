"""A tiny data directory in the layout of the licensed sets, and a tokenizer trained on it."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

# The training code needs its extra; without it there is nothing here to test.
if any(importlib.util.find_spec(name) is None for name in ("torch", "zstandard")):
    collect_ignore_glob = ["test_*.py"]
elif not shutil.which("g++") or "amx_bf16" not in Path("/proc/cpuinfo").read_text():
    collect_ignore_glob = ["test_native_step.py"]

# Paragraphs that differ in digits alone count as repeated, so these differ in a word.
WORDS = [chr(ord("a") + i) * 3 for i in range(24)]
TURNS_ZH = "\n".join(
    f"{name}：我们{day}需要提交{word}测试报告，预算是{i}0万元。请大家会后确认时间安排。"
    for i, (word, (name, day)) in enumerate(
        zip(WORDS, [("张伟", "周一"), ("李娜", "周二"), ("王强", "周三")] * 8, strict=True)
    )
)
TURNS_EN = "\n".join(
    f"{name}: We need to finish report {word} by {day}. The budget is {i} thousand dollars."
    for i, (word, (name, day)) in enumerate(
        zip(WORDS, [("Tom Hill", "Monday"), ("Ann Lee", "Friday")] * 12, strict=True)
    )
)


def write_zst(path, text):
    import zstandard

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))


def _records():
    return _summaries() | _answers_and_dialogues()


TURNS = [
    {"speaker": "USER", "text": f"I want table {i} please.", "intent": ["FindTable"]}
    for i in range(4)
]


def _summaries():
    meeting = [{"speaker": "PhD A", "content": f"We should record meeting {i} ."} for i in range(9)]
    return {
        "qmsum": {
            "meeting_transcripts": meeting,
            "general_query_list": [{"query": "Summarize", "answer": "They talked."}],
            "specific_query_list": [
                {
                    "query": "What about recording?",
                    "answer": "A spoke.",
                    "relevant_text_span": [["1", "3"]],
                }
            ],
        },
        "crd3": {"score": 2.0, "summary": "They fight.", "turns": TURNS},
        "vcsum": {"summary": "区块链发展很快，需要规范。会议建议加强监管并培养人才。"},
        "mtsdialog": {"section_header": "CC", "section_text": "Cough.", "dialogue": "Doctor: Hi"},
        "acibench": {
            "dialogue": "[doctor] how are you today ?\n[patient] i have a cough .",
            "note": "A" * 90,
        },
        "primock57": {"turns": TURNS, "note": {"highlights": ["3 days of cough"]}},
        "ethpm": {
            "turns": [{"t": "00:01:00", "speaker": "Ann", "text": "The fork is delayed to May."}],
            "tldr": {
                "highlights": {
                    "fork": [{"timestamp": "00:01:00", "highlight": "fork delayed May"}]
                },
                "action_items": [],
            },
        },
    }


def _answers_and_dialogues():
    return {
        "cmrc2018": {
            "context": "北京是中国的首都。上海是中国最大的城市之一。",
            "qas": [
                {
                    "question": "中国的首都是哪里？",
                    "answers": [{"text": "北京", "answer_start": 0}],
                }
            ],
        },
        "clinc150": {"split": "train", "text": "book a table", "intent": "book_table"},
        "banking77": {"split": "train", "text": "card lost", "category": "lost_card"},
        "sgd": {"turns": TURNS},
        "crosswoz": {
            "turns": [
                {"speaker": "usr", "text": "请问餐馆电话？", "acts": []},
                {
                    "speaker": "sys",
                    "text": "电话是010-1234，人均68元。",
                    "acts": [
                        ["Inform", "餐馆", "电话", "010-1234"],
                        ["Inform", "餐馆", "人均消费", "68元"],
                    ],
                },
            ]
        },
        "friendsqa": {
            "turns": [{"speaker": "Ross", "text": "I live in New York ."}] * 3,
            "qas": [
                {
                    "question": "Where does Ross live ?",
                    "answers": [{"answer_text": "New York", "utterance_id": 1}],
                }
            ],
        },
        "taskmaster4": {"turns": TURNS},
        "chatterbot": {"lang": "chinese", "turns": ["你好", "你好，有什么可以帮你？"]},
    }


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    from autoglm.lite.sources import RECORD_FILES, TEXT_SOURCES

    root = tmp_path_factory.mktemp("data")
    for source in TEXT_SOURCES:
        base = TURNS_ZH if source.lang == "zh" else TURNS_EN
        documents = [
            base.replace("测试", f"{word}测试").replace("report", f"{word} report")
            for word in WORDS[:12]
        ]
        write_zst(root / source.name / "part.txt.zst", "\n\n".join(documents) + "\n")
    for name, record in _records().items():
        held_out = record | {"split": "test", "text": "SECRET", "turns": ["SECRET", "SECRET"]}
        lines = [json.dumps(record, ensure_ascii=False)] * 3
        if "split" in record or name == "chatterbot":
            lines.append(json.dumps(held_out, ensure_ascii=False))
        write_zst(root / RECORD_FILES[name][0], "\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    from autoglm.lite.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(iter([TURNS_ZH, TURNS_EN] * 3), vocab_size=512).save(str(path))
    return path
