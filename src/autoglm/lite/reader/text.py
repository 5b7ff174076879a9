"""A text as the reader sees it: its language, its sentences with their speakers, its terms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoglm.lite.salience import sentences
from autoglm.lite.transcripts import parse_turns

if TYPE_CHECKING:
    from autoglm.lite.sources import Lang


def read_words(name: str) -> frozenset[str]:
    """The words in a file of this package, apart by white space."""
    return frozenset(Path(__file__).with_name(name).read_text(encoding="utf-8").split())


_HAN = re.compile(r"[\u3400-\u9fff]")
_TERM = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:[.,:]\d+)*|[\u3400-\u9fff]+")
_LATIN = re.compile(r"[A-Za-z]")
_NAMED = re.compile(r"^[^：:]{1,24}[：:]\s*\S")
_MIN_NAMED_SHARE = 0.5
# Fields above the minutes of a meeting, which look like speakers.
_HEADER = re.compile(
    r"(?:会议|时间|日期|地点|主持|记录|出席|参会|参加|缺席|列席|议题|主题|议程)(?:名称|人|人员|者)?$"
    r"|(?:meeting|date|time|place|location|venue|chair|chaired by|present|attendees|participants"
    r"|apologies|agenda|subject|topic|minutes|notes?)$",
    re.IGNORECASE,
)
_CLAUSE = {
    "en": re.compile(r"(?:(?<=[,;:])|(?<=\.\.\.)) +|(?<=[a-z]) +(?=(?:and|but|so|because|which) )"),
    "zh": re.compile(r"(?<=[，；：,;])"),
}
_LONGEST = {"en": 170, "zh": 30}
_SUFFIXES = ("ingly", "edly", "ings", "ing", "ied", "ies", "ed", "es", "ly", "s", "e")
STOP_WORDS = read_words("stop_words.txt")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, or a part of a long one, and where it stands."""

    text: str
    speaker: str
    turn: int
    place: int  # in its turn
    turn_size: int


@dataclass(frozen=True, slots=True)
class Document:
    """Sentences in order. In a dialogue those without a speaker are its header."""

    lang: Lang
    sentences: tuple[Sentence, ...]
    is_dialogue: bool


def language(text: str) -> Lang:
    """Chinese if Han characters outnumber a third of the Latin letters."""
    sample = text[:20_000]
    return "zh" if 3 * len(_HAN.findall(sample)) > len(_LATIN.findall(sample)) else "en"


def read_document(text: str, lang: Lang | None = None) -> Document:
    """Split a transcript or a plain text."""
    lang = lang or language(text)
    turns = parse_turns(text, lang)
    lines = [line for line in text.split("\n") if line.strip()]
    num_named = sum(bool(_NAMED.match(line)) for line in lines)
    is_dialogue = bool(turns) and num_named >= _MIN_NAMED_SHARE * len(lines)
    if is_dialogue:
        pairs = [("" if _HEADER.match(turn.speaker) else turn.speaker, turn.text) for turn in turns]
    else:
        pairs = [("", line) for line in lines]
    found: list[Sentence] = []
    for index, (speaker, words) in enumerate(pairs):
        parts = [part for whole in sentences(words, lang) for part in _clauses(whole, lang)]
        found += [
            Sentence(part, speaker, index, place, len(parts)) for place, part in enumerate(parts)
        ]
    return Document(lang, tuple(found), is_dialogue)


def _clauses(sentence: str, lang: Lang) -> Iterator[str]:
    """The sentence, or runs of its clauses when it is longer than a summary can use."""
    if len(sentence) <= _LONGEST[lang]:
        yield sentence
        return
    gap = "" if lang == "zh" else " "
    run = ""
    for clause in _CLAUSE[lang].split(sentence):
        if run and len(run) + len(clause) > _LONGEST[lang]:
            yield run
            run = ""
        run = f"{run}{gap}{clause}" if run else clause
    if run:
        yield run


@cache
def stem(word: str) -> str:
    """An English word without its ending; only to compare words with each other."""
    if len(word) > 3 and word.isalpha():
        for suffix in _SUFFIXES:
            if word.endswith(suffix) and len(word) - len(suffix) >= 3:
                root = word[: -len(suffix)]
                if len(root) > 3 and root[-1] == root[-2] and root[-1] not in "ls":
                    root = root[:-1]
                return root[:-1] if root.endswith("i") or root.endswith("y") else root
        return word[:-1] if word.endswith("y") else word
    return word


def words(text: str) -> list[str]:
    """Lower-case Latin words, numbers, and runs of Han characters."""
    return _TERM.findall(text.lower())


def terms(text: str) -> list[str]:
    """What is compared: stems of words that are no stop words, numbers, pairs of characters."""
    found: list[str] = []
    for word in words(text):
        if _HAN.match(word):
            found += [word[i : i + 2] for i in range(len(word) - 1)] or [word]
        elif word not in STOP_WORDS:
            found.append(stem(word))
    return found
