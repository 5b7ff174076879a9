"""Questions and fields of labelled dialogues: CrossWOZ (Chinese) and FriendsQA (English).

Both are validation splits of sets that this project never measures on.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoglm.lite.sources import clean_line, read_records
from autoglm.lite.tasks import NOT_FOUND, Example
from autoglm.lite.transcripts import Turn, render

_SPEAKERS = (("用户", "客服"), ("顾客", "助理"), ("客户", "接待员"))
_JSON_PROMPTS = (
    "请以JSON格式提取对话中的{}信息，字段为{}",
    "从对话中提取{}的信息，输出JSON，字段：{}",
)
_ASK = ("{}的{}是什么？", "对话中提到的{}的{}是多少？", "请问{}的{}？")
_MAX_FIELDS = 5


def crosswoz(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Fields of a place as JSON, and single fields as questions, also of places not mentioned."""
    for record in read_records(data_dir, "crosswoz"):
        user, system = rng.choice(_SPEAKERS)
        turns = [
            Turn(user if t["speaker"] == "usr" else system, clean_line(t["text"]))
            for t in record["turns"]
        ]
        text = render(turns, "zh")
        if len(text) > max_chars:
            continue
        fields = _fields(record["turns"], text)
        for place, values in fields.items():
            chosen = rng.sample(sorted(values), min(len(values), _MAX_FIELDS))
            answer = json.dumps({name: values[name] for name in chosen}, ensure_ascii=False)
            prompt = rng.choice(_JSON_PROMPTS).format(place, "、".join(chosen))
            yield Example("crosswoz", prompt, text, answer)
            field = rng.choice(chosen)
            yield Example("crosswoz", rng.choice(_ASK).format(place, field), text, values[field])
        missing = sorted({"酒店", "餐馆", "景点", "地铁", "出租"} - set(fields))
        if missing:
            question = rng.choice(_ASK).format(rng.choice(missing), rng.choice(("名称", "地址")))
            yield Example("crosswoz", question, text, NOT_FOUND["zh"])


def _fields(turns: list[dict[str, Any]], text: str) -> dict[str, dict[str, str]]:
    """Last value of every field that the text states word for word, by place."""
    found: dict[str, dict[str, str]] = {}
    for turn in turns:
        for act, place, field, value in turn["acts"]:
            if act == "Inform" and len(value) > 1 and value in text:
                found.setdefault(place, {})[field] = value
    return found


def friendsqa(data_dir: Path, max_chars: int, rng: random.Random) -> Iterator[Example]:
    """Questions about scenes; one in five is asked of another scene."""
    other = ""
    for record in read_records(data_dir, "friendsqa"):
        turns = [Turn(t["speaker"], clean_line(t["text"])) for t in record["turns"]]
        text = render([turn for turn in turns if turn.speaker != "#NOTE#"], "en")
        if len(text) > max_chars:
            continue
        for item in record["qas"]:
            answer = clean_line(str(item["answers"][0]["answer_text"]))
            question = clean_line(item["question"])
            if other and answer not in other and rng.random() < 0.2:
                yield Example("friendsqa", question, other, NOT_FOUND["en"])
            elif answer in text:
                yield Example("friendsqa", question, text, answer)
        other = text
