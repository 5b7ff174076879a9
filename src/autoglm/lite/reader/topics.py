"""Whether a text says anything on what a question about it is about.

A question such as "What did they decide about parking?" is answered by a summary; this tells when
there is nothing to summarise.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from autoglm.lite.reader.text import terms

if TYPE_CHECKING:
    from autoglm.lite.reader.text import Document
    from autoglm.lite.reader.weights import TermTable

# What people ask with, in any text.
_PLAIN_EN = frozenset(
    terms(
        "summarize summarise summary discussion discuss discussed decision decide decided whole"
        " meeting group team think thought thinking decide said say opinion conclude conclusion"
        " describe talk mention mentioned give main content topic overview introduce point key"
        " list please following text conversation transcript participants participant people"
        " speakers attendees everyone anyone happen happened agree agreed agreement plan planned"
        " consider considered approach suggest suggested propose proposed attitude view views"
        " segment part wrap issue problem regard regarding concerning concern toward towards"
        " outcome result end today come came reason argue argued answer question"
    )
)
_PLAIN_ZH = re.compile(
    r"为什么|什么|怎么样?|怎样|如何|哪些|哪个|是否|有没有|有关|关于|对于|针对|他们|她们|我们|大家|会议|会上|会中|与会者|参会者|团队"
    r"|决定|决议|讨论|结论|总结|概括|列出|提到|谈到|说到|谈论|认为|觉得|看法|意见|观点|态度|建议|问题|情况|事情|方面|安排|打算|计划"
    r"|接下来|下一步|之后|以后|后来|目前|现在|最后|最终|内容|原因|进行|可以|一下|请问|根据|以上|以下|原文|上文|下文|[的了吗呢吧么是有在对就和与做要会说请被把让给上里中这那]"
)
_ABOUT = re.compile(
    r"\b(?:about|regarding|concerning|with regard to|when it comes to)\s+(.+)", re.IGNORECASE
)
_MIN_RARITY = 2.3  # words that stand in every text are no topic
_MIN_SHARE = 0.2  # of the topic's terms by rarity
_STEM_CHARS = 5


def names_topic(query: str) -> bool:
    """Whether an instruction says what it is about."""
    return bool(_ABOUT.search(query)) or "关于" in query


def has_topic(document: Document, query: str, rarity: TermTable) -> bool:
    """False only if the query has a topic and next to none of its words stands in the text."""
    wanted = _topic(query, document)
    if not wanted:
        return True
    heard = {term for sentence in document.sentences for term in terms(sentence.text)}
    heard |= {
        term for speaker in {s.speaker for s in document.sentences} for term in terms(speaker)
    }
    begun = {term[:_STEM_CHARS] for term in heard}
    values = rarity.values(wanted)
    values[values < _MIN_RARITY] = 0.0
    is_heard = [term in heard or _start(term) in begun for term in wanted]
    return float(values[is_heard].sum()) >= _MIN_SHARE * float(values.sum())


def _topic(query: str, document: Document) -> list[str]:
    """The terms of what a query is about."""
    if document.lang == "zh":
        runs = _PLAIN_ZH.sub(" ", query).split()
        return list(dict.fromkeys(term for run in runs if len(run) > 1 for term in terms(run)))
    about = _ABOUT.search(query)
    found = [t for t in terms(about[1] if about else query) if t not in _PLAIN_EN]
    return list(dict.fromkeys(found))


def _start(term: str) -> str | None:
    """How a long word begins, so that `analysis` counts as `analyse`."""
    return term[:_STEM_CHARS] if len(term) >= _STEM_CHARS and term.isascii() else None
