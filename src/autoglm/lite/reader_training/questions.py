"""Questions with answers in a text, for training: CMRC 2018, FriendsQA, and made English ones.

A made question is a sentence of a text without a date, number or name, its other words thinned
out, behind the question word that asks for what is missing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoglm.lite.reader.text import STOP_WORDS
from autoglm.lite.salience import sentences
from autoglm.lite.sources import TEXT_SOURCES, clean_line, read_documents, read_records

_SOURCES_EN = (
    "text_en_books",
    "text_en_msdocs",
    "text_en_docs_handbook_sourcegraph",
    "text_en_docs_k8s_community",
    "text_en_docs_18f_guides",
    "text_en_meetings_ethpm",
    "text_en_meetings_tw",
)
_CHARS, _CHARS_PER_QUESTION, _PER_DOCUMENT = 4_000_000, 1500, 150
_CONTEXT_CHARS = 1100
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_BEFORE = (
    r"\b(?:is|are|was|were|be|as|of|in|by|for|with|to|from|that|into|on|include|includes|including"
    r"|called|has|had|have|became|become|provides?|uses?|used|between|through|about|against|like)"
)
_AFTER = (
    r"(?=[,.;:)]| (?:is|are|was|were|as|in|by|for|with|to|from|that|which|who|on|but|when|if)\b)"
)
_WHAT = (
    "What",
    "What is",
    "What was",
    "What did",
    "What does",
    "Which",
    "What kind of",
    "What type of",
)
# What may be missing (the first group, if there is one), how it is asked for, and how often.
_ASKS: tuple[tuple[re.Pattern[str], tuple[str, ...], float], ...] = (
    (
        re.compile(
            rf"\b(?:(?:{_MONTHS}) \d{{1,2}}(?:, \d{{4}})?|(?:{_MONTHS}) \d{{4}}|(?:1[5-9]"
            rf"|20)\d\d)\b"
        ),
        ("When", "In what year", "What year", "When was", "On what date"),
        1.5,
    ),
    (
        re.compile(
            r"\$?\b\d[\d,.]*(?:%| percent| million| billion)?(?= [a-z])"
            r"|\b(?:two|three|four|five|six|ten|twenty)\b(?= [a-z])"
        ),
        ("How many", "How much", "What percentage", "How many"),
        1.5,
    ),
    (
        re.compile(
            r"(?<=[a-z,] )(?:Mr\. |Mrs\. |Dr\. |Sir )?(?:[A-Z][a-z]+ ){0,3}[A-Z][a-z]+(?=[ ,.])"
        ),
        ("Who", "What", "Which", "Where", "What is the name of", "Who was", "What company"),
        3.0,
    ),
    (re.compile(rf"{_BEFORE} (?:the |an? )?(\w[\w'-]*(?: [\w'-]+){{0,6}}?){_AFTER}"), _WHAT, 4.0),
    (re.compile(rf"{_BEFORE} (?:the |an? )?(\w[\w'-]*(?: [\w'-]+){{1,7}})(?=[,.;:])"), _WHAT, 2.5),
    (
        re.compile(
            r"^(?:The |An? )?([\w'-]+(?: [\w'-]+){0,4}?)(?= (?:is|are|was|were|has|had|can|will"
            r"|may)\b)"
        ),
        (*_WHAT, "Who"),
        1.5,
    ),
    (re.compile(r"\bbecause (?:of )?([^,.;]{10,70})(?=[,.;])"), ("Why", "Why did", "Why is"), 1.0),
    (re.compile(r" by ([a-z]+ing [^,.;]{5,50})(?=[,.;])"), ("How", "How does", "How did"), 0.7),
)
_KEPT_CONTENT, _KEPT_STOP, _STRANGE = 0.55, 0.35, 0.12


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


def english(data_dir: Path, rng: random.Random, missing: float) -> Iterator[Question]:
    """Made questions and FriendsQA; a share is asked of another text."""
    found = [*_made(data_dir, rng), *_friends(data_dir)]
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


def _made(data_dir: Path, rng: random.Random) -> Iterator[Question]:
    strange: list[str] = []
    for source in TEXT_SOURCES:
        if source.name not in _SOURCES_EN:
            continue
        left = _CHARS
        for document in read_documents(data_dir, source):
            left -= len(document)
            if left < 0:
                break
            for _ in range(min(_PER_DOCUMENT, 1 + len(document) // _CHARS_PER_QUESTION)):
                start = rng.randrange(max(1, len(document) - _CONTEXT_CHARS))
                start = document.find(" ", start) + 1
                text = clean_line(document[start : start + _CONTEXT_CHARS])
                made = _make(text, rng, strange)
                if made:
                    yield made


def _make(text: str, rng: random.Random, strange: list[str]) -> Question | None:
    """A question about a sentence of the text; `strange` are words of other texts."""
    pattern, asks, _ = rng.choices(_ASKS, [weight for *_, weight in _ASKS])[0]
    candidates = [
        (sentence, match)
        for sentence in sentences(text, "en")[1:-1]
        if 50 < len(sentence) < 320
        for match in pattern.finditer(sentence)
        if _may_be_asked(match[match.re.groups])
    ]
    if not candidates:
        return None
    sentence, match = rng.choice(candidates)
    begin, end = match.span(match.re.groups)
    # Far words are asked less often than near ones.
    cut = rng.randrange(40, 200)
    left = sentence[max(0, begin - cut) : begin].partition(" ")[2]
    found = re.findall(r"[\w'-]+", f"{left} {sentence[end : end + cut].rpartition(' ')[0]}")
    kept = [word for word in found if rng.random() < _share(word)]
    strange += found[:3]
    if sum(word.lower() not in STOP_WORDS for word in kept) < 2:
        return None
    if rng.random() < 0.3:
        half = rng.randrange(len(kept))
        kept = kept[half:] + kept[:half]
    # Words that the text lacks, as people ask with words of their own.
    kept = [rng.choice(strange) if rng.random() < _STRANGE else word for word in kept]
    question = f"{rng.choice(asks)} {' '.join(kept)}?"
    return Question(question, text, sentence[begin:end], text.find(sentence) + begin)


def _may_be_asked(answer: str) -> bool:
    """Whether it says something: no pronoun, and no verb or adverb alone."""
    words = answer.lower().split()
    return not STOP_WORDS.issuperset(words) and (
        len(words) > 1 or not words[0].endswith(("ed", "ly", "ing"))
    )


def _share(word: str) -> float:
    return _KEPT_STOP if word.lower() in STOP_WORDS else _KEPT_CONTENT
