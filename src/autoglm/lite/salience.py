"""Which sentences of a text carry it: unsupervised salience used to write synthetic targets.

A sentence scores by the rarity-weighted terms it shares with the rest of the text (the centroid
idea of SumBasic and LexRank), with bonuses for decisions, requests, numbers and dates.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from autoglm.lite.sources import Lang

_SENTENCE = {
    "zh": re.compile(r"[^。！？!?；\n]+[。！？!?；]?[」”』）)]*"),
    "en": re.compile(r"[^.!?\n]+(?:[.!?](?!\s|$)[^.!?\n]*)*[.!?]*[\"”)]*"),
}
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]{2,}|\d+")
_HAN = re.compile(r"[\u4e00-\u9fff]+")
_CUE = {
    "zh": re.compile(
        r"决定|决议|确认|建议|希望|需要|必须|应该|计划|目标|预算|问题|重点|负责|完成|同意|通过"
        r"|报告|方案|时间|月|年|\d"
    ),
    "en": re.compile(
        r"\b(decid\w+|agree\w*|suggest\w*|propos\w+|need|must|should|plan\w*|goal|budget|problem|issue"
        r"|important|deadline|responsible|finish\w*|will|report\w*|next|\d+)\b",
        re.IGNORECASE,
    ),
}
_LEADING = {
    "zh": re.compile(
        r"^(?:(?:那么?|好的?|对|嗯|呃|啊|所以|然后|其实|就是说?|因为|但是|不过|可是|另外|当然|也就是说|我想说的?是?"
        r"|谢谢[^，。]{0,8}|各位[^，。]{0,8}|[^，。]{0,6}大家(?:好|平安|早|午安|晚安)|你好|主席|补充一下|不好意思|是的?|没错|了解|ok|OK|这样子?|首先)[，、：\s]*)+"
    ),
    "en": re.compile(
        r"^(?:(?:so|and|but|well|okay|ok|yeah|yes|no|right|um|uh|oh|like|you know|i mean|actually"
        r"|basically|thank you|thanks|alright|then|also|hi|hello|now|mm-hmm|sure)\b[,.\s]*)+",
        re.IGNORECASE,
    ),
}
_FILLER_EN = re.compile(r"\b(?:um|uh|er|you know|I mean|sort of|kind of)\b,? ?", re.IGNORECASE)
_TRAILING_ZH = re.compile(
    r"(?:[，、]?(?:谢谢大家|谢谢|这样子?|对不对|好不好|是不是|的话|啦|啊|喔|哦|吧|嘛|了))+$"
)


def sentences(text: str, lang: Lang) -> list[str]:
    """Sentences of `text`, stripped, in order."""
    found = (match.strip() for match in _SENTENCE[lang].findall(text))
    return [sentence for sentence in found if sentence]


def terms(text: str, lang: Lang) -> list[str]:
    """Character bigrams of Han runs and lower-cased words."""
    words = [word.lower() for word in _WORD.findall(text)]
    if lang == "en":
        return words
    return words + [run[i : i + 2] for run in _HAN.findall(text) for i in range(len(run) - 1)]


class Salience:
    """Sentence scorer with document frequencies learnt from a sample of texts."""

    def __init__(self, texts: Iterable[str], lang: Lang) -> None:
        self.lang: Lang = lang
        self._document_count = 1
        self._frequency: Counter[str] = Counter()
        for text in texts:
            self._document_count += 1
            self._frequency.update(set(terms(text, lang)))

    def _rarity(self, term: str) -> float:
        return math.log(self._document_count / (1 + self._frequency[term]))

    def scores(self, candidates: Sequence[str]) -> list[float]:
        """One score per sentence, relative to the others."""
        counted = [terms(sentence, self.lang) for sentence in candidates]
        weight = Counter(term for sentence in counted for term in set(sentence))
        result = []
        for sentence, found in zip(candidates, counted, strict=True):
            mass = sum(math.log1p(weight[t]) * max(0.0, self._rarity(t)) for t in set(found))
            cues = len(_CUE[self.lang].findall(sentence))
            result.append(mass / math.sqrt(12 + len(found)) * (1 + 0.15 * min(cues, 4)))
        return result


def compress(sentence: str, lang: Lang, max_chars: int) -> str:
    """The sentence without openers and fillers, its later clauses dropped beyond `max_chars`."""
    sentence = _LEADING[lang].sub("", sentence.strip("「」“”\"'()（） "))
    if lang == "en":
        sentence = _FILLER_EN.sub("", sentence)
    sentence = sentence.rstrip("。；.;，, ")
    if len(sentence) > max_chars:
        marks = "，、：,;" if lang == "zh" else ",;:—"
        cut = max(sentence.rfind(mark, 0, max_chars) for mark in marks)
        if cut > max_chars // 3:
            sentence = sentence[:cut]
    return _TRAILING_ZH.sub("", sentence) if lang == "zh" else sentence.strip()
