"""Questions with answers in a text, for training: CMRC 2018, FriendsQA, and made English ones."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoglm.lite.reader.weights import TermTable
from autoglm.lite.reader_training.made_questions import QuestionMaker
from autoglm.lite.sources import TEXT_SOURCES, clean_line, read_documents, read_records

# How many questions are made of each source: told texts are nearest to what people ask about.
_MADE = {
    "text_en_books": 9000,
    "text_en_msdocs": 2000,
    "text_en_docs_handbook_sourcegraph": 800,
    "text_en_docs_k8s_community": 600,
    "text_en_docs_18f_guides": 300,
    "text_en_meetings_ethpm": 500,
    "text_en_meetings_tw": 500,
}
_CHARS_PER_TRY, _PER_DOCUMENT = 1500, 250
_TALK = re.compile(r"\b(?:I|me|my|we|us|our|you|your)\b|[\"“”]", re.IGNORECASE)
_MOST_TALK, _KEPT_TALK = 0.008, 0.05  # of a text's words; texts above that are kept by chance
_CONTEXT_CHARS = 1100


@dataclass(frozen=True, slots=True)
class Question:
    """A question; `start` is where the answer begins in the text, None when it is not there."""

    question: str
    text: str
    answer: str
    start: int | None


def chinese(data_dir: Path, rng: random.Random, missing: float) -> Iterator[Question]:
    """CMRC 2018's training split; a share is asked of another paragraph."""
    records = list(read_records(data_dir, "cmrc2018"))
    for record in records:
        for item in record["qas"]:
            answer = item["answers"][0]
            yield Question(
                item["question"], record["context"], answer["text"], int(answer["answer_start"])
            )
            if rng.random() < missing:
                other = rng.choice(records)["context"]
                if answer["text"] not in other:
                    yield Question(item["question"], other, "", None)


def english(
    data_dir: Path, rarity: TermTable, rng: random.Random, missing: float
) -> Iterator[Question]:
    """Made questions and FriendsQA; a share is asked of another text."""
    found = [*_made(data_dir, rarity, rng), *_friends(data_dir)]
    rng.shuffle(found)
    for item in found:
        yield item
        if rng.random() < missing:
            other = rng.choice(found).text
            if item.answer not in other:
                yield Question(item.question, other, "", None)


def _friends(data_dir: Path) -> Iterator[Question]:
    for record in read_records(data_dir, "friendsqa"):
        turns = record["turns"]
        starts: list[int] = []
        text = ""
        for turn in turns:
            starts.append(len(text))
            text += f"{turn['speaker']}: {turn['text']}\n"
        for item in record["qas"]:
            answer = item["answers"][0]
            at = starts[answer["utterance_id"]]
            start = text.find(answer["answer_text"], at)
            if start >= 0:
                yield Question(item["question"], text, answer["answer_text"], start)


def _made(data_dir: Path, rarity: TermTable, rng: random.Random) -> Iterator[Question]:
    maker = QuestionMaker(rarity, rng)
    for source in TEXT_SOURCES:
        left = _MADE.get(source.name, 0)
        for document in read_documents(data_dir, source) if left else ():
            for text in _windows(document, rng):
                made = maker.make(text)
                if made and left:
                    left -= 1
                    yield Question(made.question, text, made.answer, made.start)
            if not left:
                break


def _windows(document: str, rng: random.Random) -> Iterator[str]:
    """Pieces of a document that tell rather than talk."""
    for _ in range(min(_PER_DOCUMENT, 1 + len(document) // _CHARS_PER_TRY)):
        start = document.find(" ", rng.randrange(max(1, len(document) - _CONTEXT_CHARS))) + 1
        text = clean_line(document[start : start + _CONTEXT_CHARS])
        is_talk = len(_TALK.findall(text)) > _MOST_TALK * len(text.split())
        if not is_talk or rng.random() < _KEPT_TALK:
            yield text
