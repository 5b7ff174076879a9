"""Evaluation sets as items: what is asked, about which text, and what would be right.

Only validation splits and held-out documents; none of them is trained on. Sets come as JSON lines,
plain or compressed with zstd, in the folders of the data directory.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoglm.errors import InputError
from autoglm.lite.sources import Lang, clean_line, open_zst
from autoglm.lite.transcripts import Turn, render

Kind = Literal["summary", "answer", "refusal", "facts", "intent"]
FACTS = Path(__file__).with_name("facts.jsonl")  # labelled by hand, comes with the package
_SEED = 11
_MIN_ALIGNMENT = 1.0  # of CRD3's summaries with their turns; training uses the same bound


@dataclass(frozen=True, slots=True)
class Item:
    """One request and its references."""

    prompt: str
    text: str
    references: tuple[str, ...]
    lang: Lang


@dataclass(frozen=True, slots=True)
class Task:
    """A set of items that are scored alike."""

    name: str
    kind: Kind
    file: str  # in the data directory, without .zst
    read: Callable[[Iterator[dict[str, Any]]], Iterator[Item]]
    max_tokens: int


def has_set(data_dir: Path, file: str) -> bool:
    """True if the data directory holds a set, plain or compressed."""
    return _find(data_dir, file) is not None


def read_set(data_dir: Path, file: str) -> Iterator[dict[str, Any]]:
    """The records of a set. Raises InputError."""
    path = _find(data_dir, file)
    if path is None:
        message = f"{data_dir / file}: no such set, plain or as .zst; check --data"
        raise InputError(message)
    try:
        with open_zst(path) if path.suffix == ".zst" else path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except ValueError as err:
        message = f"{path}: not JSON lines ({type(err).__name__})"
        raise InputError(message) from err


def load_items(data_dir: Path, task: Task, limit: int = 0) -> list[Item]:
    """The items of a task; with a limit, so many of them, evenly spread. Raises InputError."""
    try:
        items = list(task.read(read_set(data_dir, task.file)))
    except (KeyError, TypeError, ValueError) as err:
        message = f"{data_dir / task.file}: not in the form of {task.name} ({type(err).__name__})"
        raise InputError(message) from err
    if limit and limit < len(items):
        items = [items[index * len(items) // limit] for index in range(limit)]
    return items


def _find(data_dir: Path, file: str) -> Path | None:
    paths = (data_dir / file, data_dir / f"{file}.zst")
    return next((path for path in paths if path.is_file()), None)


def _qmsum(records: Iterator[dict[str, Any]]) -> Iterator[Item]:
    for record in records:
        turns = [
            Turn(t["speaker"], clean_line(t["content"])) for t in record["meeting_transcripts"]
        ]
        text = render([turn for turn in turns if turn.text], "en")
        for query in record["general_query_list"] + record["specific_query_list"]:
            yield Item(query["query"], text, (query["answer"],), "en")


def _vcsum(records: Iterator[dict[str, Any]]) -> Iterator[Item]:
    for record in records:
        turns = [
            Turn(f"发言人{speaker}", "".join(lines))
            for speaker, lines in zip(record["speaker"], record["context"], strict=True)
        ]
        yield Item("请总结以下会议记录要点", render(turns, "zh"), (record["discussion"],), "zh")


def _ami(records: Iterator[dict[str, Any]]) -> Iterator[Item]:
    for record in records:
        prompt = "Summarize the key points of this meeting"
        yield Item(prompt, record["transcript"], (record["abstract"],), "en")


def _crd3(records: Iterator[dict[str, Any]]) -> Iterator[Item]:
    for record in records:
        if record["score"] >= _MIN_ALIGNMENT:
            turns = [Turn(str(t["speaker"]).title(), t["text"]) for t in record["turns"]]
            yield Item(
                "Summarize this conversation", render(turns, "en"), (record["summary"],), "en"
            )


def _questions(lang: Lang) -> Callable[[Iterator[dict[str, Any]]], Iterator[Item]]:
    def read(records: Iterator[dict[str, Any]]) -> Iterator[Item]:
        for record in records:
            for item in record["qas"]:
                references = tuple(answer["text"] for answer in item["answers"])
                yield Item(item["question"], record["context"], references, lang)

    return read


def _missing(lang: Lang) -> Callable[[Iterator[dict[str, Any]]], Iterator[Item]]:
    """Half the questions with their own paragraph, half with another's that lacks the answer.

    An item without references is one whose answer is not in the text.
    """

    def read(records: Iterator[dict[str, Any]]) -> Iterator[Item]:
        items = list(_questions(lang)(records))
        rng = random.Random(_SEED)
        for index, item in enumerate(items):
            if index % 2 == 0:
                yield item
                continue
            other = rng.choice(items).text
            while any(reference in other for reference in item.references):
                other = rng.choice(items).text
            yield Item(item.prompt, other, (), lang)

    return read


def _facts(records: Iterator[dict[str, Any]]) -> Iterator[Item]:
    for record in records:
        reference = json.dumps(record["facts"], ensure_ascii=False)
        yield Item(record["prompt"], record["text"], (reference,), "en")


def _intents(records: Iterator[dict[str, Any]]) -> Iterator[Item]:
    for record in records:
        if record["split"] == "val":
            label = record["intent"].replace("_", " ")
            yield Item("What is the intent of this utterance?", record["text"], (label,), "en")


TASKS: tuple[Task, ...] = (
    Task("qmsum", "summary", "sum_qmsum/val.jsonl", _qmsum, 320),
    Task("vcsum", "summary", "sum_vcsum/short_dev.jsonl", _vcsum, 320),
    Task("ami", "summary", "sum_ami/ami.jsonl", _ami, 320),
    Task("crd3", "summary", "sum_crd3/val.jsonl", _crd3, 320),
    Task("cmrc2018", "answer", "qa_cmrc2018/dev.jsonl", _questions("zh"), 48),
    Task("drcd", "answer", "qa_drcd/dev.jsonl", _questions("zh"), 48),
    Task("xquad_en", "answer", "qa_xquad/en.jsonl", _questions("en"), 48),
    Task("xquad_zh", "answer", "qa_xquad/zh.jsonl", _questions("zh"), 48),
    Task("missing_zh", "refusal", "qa_cmrc2018/dev.jsonl", _missing("zh"), 48),
    Task("missing_en", "refusal", "qa_xquad/en.jsonl", _missing("en"), 48),
    Task("facts", "facts", str(FACTS), _facts, 512),
    Task("clinc150", "intent", "int_clinc150/data_full.jsonl", _intents, 16),
)
