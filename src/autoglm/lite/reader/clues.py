"""What every token of a text says about being the answer to a question, as numbers.

Tokens are Chinese characters, words, numbers and marks. Most features compare with the question
and hold in any language; hashed tokens add what a network can learn of single words.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoglm.lite.reader.text import STOP_WORDS, stem
from autoglm.lite.reader.weights import hashes

if TYPE_CHECKING:
    import numpy.typing as npt

    from autoglm.lite.reader.weights import Floats, TermTable

_TOKEN = re.compile(
    r"[A-Za-z\u00c0-\u024f]+(?:['’][a-z]+)?|\d+(?:[.,:]\d+)*|[\u3400-\u9fff]|[^\s\w]|\w"
)
_END = frozenset("。！？!?；;\n")
_COMMA = frozenset(",，、:：")
_OPEN, _CLOSE = frozenset('「『《“"(（[〈'), frozenset('」』》”")）]〉')
_FUNCTION_ZH = frozenset("的是了在于和与及为由以被把从到对而但也就都又或之其这那有将并等所")
_QUESTION_ZH = frozenset("什么谁哪何多少几怎吗呢请问样为")
_TYPES = (
    r"\bwho|\bwhom|\bwhose|谁|哪位|何人|哪个人|人物",
    r"\bwhen\b|what (?:year|date|day|month|time|century)|何时|什么时候|哪年|哪一年|时间|日期|几月"
    r"|年份",
    r"\bwhere\b|what (?:city|country|place|state|town)|哪里|哪儿|何处|什么地方|位于|地区|地点"
    r"|哪个国家|哪座|哪个城市",
    r"how (?:many|much|long|far|old|often|high|large|big|tall)|what percent|多少"
    r"|几[个人次年岁种条座名位天]|多长|多大|多高",
    r"\bwhy\b|reason|为什么|为何|原因|何故|因为什么",
    r"\bhow\b(?! (?:many|much|long|far|old|often))|怎么|如何|怎样",
    r"which|哪个|哪些|哪种|哪部|哪本|哪家|哪支|哪所",
    r"\bwhat\b|什么|何",
    r"name|called|名字|叫|名称|称为|原名|全名|别名",
    r"有哪些|包括|哪几|分别|list|what are",
)
_ASKING = re.compile(
    r"\b(?:who|whom|whose|what|which|when|where|why|how(?: (?:many|much|long|far|old|often))?)\b"
    r"|为什么|什么|谁|何|哪|多少|几|怎|吗",
    re.IGNORECASE,
)
_TYPE = tuple(re.compile(pattern, re.IGNORECASE) for pattern in _TYPES)
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_SPANS = (
    re.compile(
        r"(?:前|公元前)?[\d零一二三四五六七八九十百]+(?:世纪|年代|年|月份?|日"
        r"|号)(?:[\d一二三四五六七八九十]+[月日号])*|"
        rf"\b(?:{MONTHS})\b(?: \d{{1,2}})?(?:,? \d{{4}})?|\b1\d{{3}}s?\b|\b20\d\d\b|\b(?:Mon"
        rf"|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"
    ),
    re.compile(
        r"[约近逾]?[\d零一二两三四五六七八九十百千万亿][\d零一二两三四五六七八九十百千万亿.,]*(?:多|余)?[^\W\d_，。、]{1,2}|"
        r"\$?\d[\d.,]*(?: ?(?:percent|%|million|billion|thousand|[a-z]+))?|\b(?:one|two|three"
        r"|four|five|six|seven|eight|nine|ten|twelve|twenty)\b"
    ),
    re.compile(r"「[^」]{1,30}」|《[^》]{1,30}》|“[^”]{1,30}”|\"[^\"]{1,60}\""),
    re.compile(r"(?:[A-Z][\w'’-]+(?: (?:of|the|de|and|van|von) (?=[A-Z]))?[ ]?)+"),
    re.compile(r"[A-Za-z][A-Za-z0-9.' -]+"),
)
_NEAR = (4, 12)
_STEP_CHARS = 10.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a text with their places in it."""

    text: str
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    keys: tuple[str, ...]  # lower-case, without endings: what is compared
    sentence: npt.NDArray[np.int64]  # the number of each token's sentence

    def __len__(self) -> int:
        return len(self.keys)


def tokenize(text: str) -> Tokens:
    """All tokens; a sentence ends at its mark or at a line's end."""
    found = list(_TOKEN.finditer(text))
    sentence: list[int] = []
    number, last = 0, 0
    for match in found:
        if "\n" in text[last : match.start()]:
            number += 1
        sentence.append(number)
        last = match.end()
        is_full_stop = match[0] == "." and text[last : last + 1] in ("", " ", "\n", '"')
        if match[0] in _END or is_full_stop:
            number += 1
    return Tokens(
        text,
        np.array([match.start() for match in found], dtype=np.int64),
        np.array([match.end() for match in found], dtype=np.int64),
        tuple(stem(match[0].lower()) for match in found),
        np.array(sentence, dtype=np.int64),
    )


def _weights(tokens: Tokens, rarity: TermTable) -> Floats:
    """How much a token tells: nothing for marks and stop words, else its rarity."""
    known = rarity.values(tokens.keys)
    for index, key in enumerate(tokens.keys):
        is_plain = key in STOP_WORDS or key in _FUNCTION_ZH or key in _QUESTION_ZH
        if is_plain or not key[0].isalnum():
            known[index] = 0.0
        elif "\u3400" <= key[0] <= "\u9fff":
            known[index] = 2.5  # single characters are in no table
    return known


def clues(tokens: Tokens, question: str, rarity: TermTable) -> Floats:
    """float32 [num_tokens, num_features]."""
    asked = tokenize(question)
    num = len(tokens)
    keys = tokens.keys
    weights = _weights(tokens, rarity)
    in_question = frozenset(asked.keys)
    pairs = frozenset(zip(asked.keys, asked.keys[1:], strict=False))
    same = np.array([key in in_question for key in keys], dtype=np.float32)
    pair = np.array([p in pairs for p in itertools.pairwise(keys)] + [False], dtype=np.float32)
    back = np.concatenate([[0.0], pair[:-1]]).astype(np.float32)
    mass = (same * weights * (0.3 + 0.7 * np.maximum(pair, back)) / 5).astype(np.float32)
    columns = [
        same,
        same * weights / 5,
        pair,
        back,
        np.log1p(_runs(pair)),
        weights / 5,
        *_classes(tokens),
        *_typed(tokens),
        *_sentence_clues(tokens, mass, weights, in_question),
        *(_near(mass, reach) for reach in _NEAR),
        np.arange(num) / max(1, num),
        *_places(tokens),
        *_order(tokens, asked, same),
    ]
    kinds = [float(bool(pattern.search(question))) for pattern in _TYPE]
    kinds.append(float(np.log1p(len(asked)) / 3))
    own = np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)
    shared = np.broadcast_to(np.array(kinds, dtype=np.float32), (num, len(kinds)))
    return np.concatenate([own, shared], axis=1)


def _order(tokens: Tokens, asked: Tokens, same: Floats) -> list[Floats]:
    """Of tokens that the question has, how near they stand there to its question word and end.

    What is asked for stands where the question word would stand, so what is near to that in the
    question is near to the answer in the text.
    """
    found = _ASKING.search(asked.text)
    first, last = found.span() if found else (0, 0)
    nearness: dict[str, tuple[float, float, float]] = {}
    num = len(asked)
    before = int(np.searchsorted(asked.starts, first))
    after = int(np.searchsorted(asked.starts, last))
    for place, key in enumerate(asked.keys):
        left, right, end = nearness.get(key, (0.0, 0.0, 0.0))
        nearness[key] = (
            max(left, 1.0 / (before - place) if place < before else 0.0),
            max(right, 1.0 / (place - after + 1) if place >= after else 0.0),
            max(end, 1.0 / (num - place)),
        )
    none = (0.0, 0.0, 0.0)
    rows = [
        nearness.get(key, none) if is_same else none
        for key, is_same in zip(tokens.keys, same, strict=True)
    ]
    return list(np.array(rows, dtype=np.float32).reshape(-1, 3).T)


def token_places(tokens: Tokens, size: int) -> npt.NDArray[np.int64]:
    """Hashes of the tokens, for embeddings."""
    return hashes(tokens.keys, size)


def question_places(question: str, size: int) -> npt.NDArray[np.int64]:
    """Hashes of a question's tokens and pairs of tokens; at least one."""
    keys = tokenize(question).keys
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(keys)]
    return hashes([*keys, *pairs] or [""], size)


def _runs(pair: Floats) -> Floats:
    """For every token, how many pairs in a row around it are the question's."""
    length = np.zeros(len(pair) + 1, dtype=np.float32)
    start = 0
    for index, is_pair in enumerate([*(pair > 0), False]):
        if not is_pair:
            if index > start:
                length[start : index + 1] = index - start
            start = index + 1
    return length[: len(pair)]


def _classes(tokens: Tokens) -> list[Floats]:
    texts = [tokens.text[a:b] for a, b in zip(tokens.starts, tokens.ends, strict=True)]
    tests = (
        lambda t: "\u3400" <= t[0] <= "\u9fff",
        lambda t: t[0].isascii() and t[0].islower(),
        lambda t: t[0].isupper(),
        lambda t: t[0].isdigit(),
        lambda t: t in _END or t == ".",
        lambda t: t in _COMMA,
        lambda t: t in _OPEN,
        lambda t: t in _CLOSE,
        lambda t: t.lower() in STOP_WORDS or t in _FUNCTION_ZH,
    )
    return [np.array([test(text) for text in texts], dtype=np.float32) for test in tests]


def _typed(tokens: Tokens) -> list[Floats]:
    """For every kind of span a mask of the tokens in it, and of those that begin it."""
    columns: list[Floats] = []
    for pattern in _SPANS:
        inside = np.zeros(len(tokens), dtype=np.float32)
        begins = np.zeros(len(tokens), dtype=np.float32)
        for match in pattern.finditer(tokens.text):
            first = int(np.searchsorted(tokens.starts, match.start()))
            last = int(np.searchsorted(tokens.ends, match.end(), side="right"))
            inside[first:last] = 1.0
            begins[first : first + 1] = 1.0
        columns += [inside, begins]
    return columns


def _sentence_clues(
    tokens: Tokens, mass: Floats, weights: Floats, in_question: frozenset[str]
) -> list[Floats]:
    """How much of the question stands in the sentence of each token and in its neighbours."""
    num = int(tokens.sentence[-1]) + 1 if len(tokens) else 1
    heard: list[set[str]] = [set() for _ in range(num)]
    cover = np.zeros(num, dtype=np.float32)
    for index in np.flatnonzero(mass):
        key, place = tokens.keys[index], int(tokens.sentence[index])
        if key not in heard[place]:
            heard[place].add(key)
            cover[place] += mass[index]
    known = {key: float(weights[index]) for index, key in enumerate(tokens.keys)}
    total = sum(known.get(key, 8.0) for key in in_question) / 5 + 1e-3
    share = cover / total
    best = cover / (cover.max(initial=0.0) + 1e-3)
    before = np.concatenate([[0.0], best[:-1]])
    after = np.concatenate([best[1:], [0.0]])
    first = (np.arange(num) == int(np.argmax(cover))).astype(np.float32)
    return [np.asarray(row)[tokens.sentence] for row in (share, best, before, after, first)]


def _near(mass: Floats, reach: int) -> Floats:
    kernel = np.maximum(0.0, 1 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1))
    padded = np.convolve(mass, kernel)
    return padded[reach : reach + len(mass)].astype(np.float32)


def _places(tokens: Tokens) -> list[Floats]:
    """How far a token stands from the ends of its sentence, up to ten tokens."""
    number = np.arange(len(tokens))
    first = np.searchsorted(tokens.sentence, tokens.sentence, side="left")
    last = np.searchsorted(tokens.sentence, tokens.sentence, side="right") - 1
    return [
        np.minimum((number - first) / _STEP_CHARS, 1.0).astype(np.float32),
        np.minimum((last - number) / _STEP_CHARS, 1.0).astype(np.float32),
    ]
