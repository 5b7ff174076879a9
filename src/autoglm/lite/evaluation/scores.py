"""Standard scores: ROUGE with stemming or over characters, exact match and F1 of answers.

English ROUGE is that of the rouge-score package; Chinese ROUGE is the same code over characters.
Answers follow the definitions of SQuAD for English and of CMRC 2018 for Chinese. All are 0-100.
"""

import functools
import re
import string
from collections import Counter
from typing import Any

from autoglm.errors import require
from autoglm.lite.salience import sentences
from autoglm.lite.sources import Lang

_HAN = re.compile(r"[\u3400-\u9fff]")
_UNITS_ZH = re.compile(r"[\u3400-\u9fff]|[a-z0-9]+")
_UNITS_EN = re.compile(r"[a-z0-9]+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation) | frozenset(
    "，。：？！“”；’《》……·、「」『』（）\uff0d\uff5e—"
)


def units(text: str, lang: Lang) -> list[str]:
    """What ROUGE counts: lower-case words; in Chinese characters and Latin words."""
    return (_UNITS_ZH if lang == "zh" else _UNITS_EN).findall(text.lower())


class _Characters:
    """A tokenizer for rouge-score, which has none for Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return units(text, "zh")


@functools.cache
def _scorer(lang: Lang) -> Any:
    scorers = require("rouge_score.rouge_scorer", extra="eval")
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    if lang == "zh":
        return scorers.RougeScorer(kinds, tokenizer=_Characters())
    return scorers.RougeScorer(kinds, use_stemmer=True)


def rouge(reference: str, answer: str, lang: Lang) -> dict[str, float]:
    """F-measures of ROUGE-1, -2, -L and -Lsum; the last compares sentence by sentence."""
    lines = ["\n".join(sentences(text, lang)) for text in (reference, answer)]
    found = _scorer(lang).score(*lines)
    return {name: 100.0 * score.fmeasure for name, score in found.items()}


def answer_scores(references: tuple[str, ...], answer: str, lang: Lang) -> dict[str, float]:
    """The best exact match and F1 over the references."""
    score = _cmrc if lang == "zh" else _squad
    pairs = [score(reference, answer) for reference in references]
    return {"em": max(em for em, _ in pairs), "f1": max(f1 for _, f1 in pairs)}


def _squad_words(text: str) -> list[str]:
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", plain).split()


def _squad(reference: str, answer: str) -> tuple[float, float]:
    wanted, found = _squad_words(reference), _squad_words(answer)
    em = 100.0 * (wanted == found)
    common = sum((Counter(wanted) & Counter(found)).values())
    return em, 100.0 * _f1(common, len(found), len(wanted)) if wanted and found else em


def _cmrc_units(text: str) -> list[str]:
    plain = "".join(c for c in text.lower().strip() if c not in _PUNCTUATION)
    return re.findall(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+", plain)


def _cmrc(reference: str, answer: str) -> tuple[float, float]:
    wanted, found = _cmrc_units(reference), _cmrc_units(answer)
    em = 100.0 * (wanted == found)
    return em, 100.0 * _f1(_longest_common_run(wanted, found), len(found), len(wanted))


def _longest_common_run(a: list[str], b: list[str]) -> int:
    """CMRC 2018 counts what both have in one piece, not all common characters."""
    best = 0
    before = [0] * (len(b) + 1)
    for unit in a:
        row = [0] * (len(b) + 1)
        for index, other in enumerate(b):
            if unit == other:
                row[index + 1] = before[index] + 1
                best = max(best, row[index + 1])
        before = row
    return best


def _f1(common: int, num_found: int, num_wanted: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / num_found, common / num_wanted
    return 2 * precision * recall / (precision + recall)


_REFUSAL = re.compile(
    r"没有提到|没有提及|未提到|未提及|没有说明|无法回答|does not (?:say|mention)|not mentioned"
    r"|doesn't (?:say|mention)|not in the text|no answer|cannot be answered",
    re.IGNORECASE,
)


def is_refusal(answer: str) -> bool:
    """True if the answer says that the text does not hold it."""
    return bool(_REFUSAL.search(answer))


_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NAME_EN = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+(?: [A-Z][a-z]+)*")
_NAME_ZH = re.compile(
    r"(?:^|[\s，。、；：-])([\u4e00-\u9fff]{2,4}?)(?=表示|认为|提出|建议|询问|指出|介绍|负责|[:：])"
)
_LATIN = re.compile(r"[A-Za-z][A-Za-z0-9.]+")


def unsupported(answer: str, source: str, lang: Lang) -> tuple[int, int]:
    """Names and numbers of an answer that the source does not have, and how many there are."""
    found = set(_NUMBER.findall(answer))
    if lang == "zh":
        found |= set(_NAME_ZH.findall(answer)) | set(_LATIN.findall(answer))
    else:
        found |= set(_NAME_EN.findall(answer))
    have = source.lower()
    return sum(item.lower() not in have for item in found), len(found)
