"""Turns of a meeting: parsing speaker-prefixed lines, cutting chunks, renaming speakers."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoglm.lite.scenes import phrases
from autoglm.lite.sources import Lang

_PREFIX = re.compile(
    r"^([^\s：:，。,.!?！？()（）「」“”\"0-9][^：:，。,!?！？()（）「」“”\"]{0,24})[：:]\s*(.+)$"
)
_MAX_NAME_CHARS = {"zh": 8, "en": 24}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker said without interruption."""

    speaker: str
    text: str


def parse_turns(document: str, lang: Lang) -> list[Turn]:
    """Turns of `name: words` lines; a line without a name continues the turn before it."""
    turns: list[Turn] = []
    for line in document.split("\n"):
        match = _PREFIX.match(line)
        if match and len(match[1]) <= _MAX_NAME_CHARS[lang]:
            speaker, text = match[1].strip(), match[2]
        elif turns:
            speaker, text = turns[-1].speaker, line
        else:
            continue
        if turns and turns[-1].speaker == speaker:
            gap = "" if lang == "zh" else " "
            turns[-1] = Turn(speaker, turns[-1].text + gap + text)
        else:
            turns.append(Turn(speaker, text))
    return turns


def render(turns: Sequence[Turn], lang: Lang) -> str:
    """The turns as the product receives them, one line each."""
    mark = "：" if lang == "zh" else ": "
    return "\n".join(f"{turn.speaker}{mark}{turn.text}" for turn in turns)


def chunks(turns: Sequence[Turn], max_chars: int, min_turns: int = 2) -> Iterator[list[Turn]]:
    """Runs of whole turns of up to `max_chars`; an overlong turn is cut at a sentence end."""
    current: list[Turn] = []
    size = 0
    for turn in turns:
        if len(turn.text) > max_chars // 2:
            turn = Turn(turn.speaker, _head(turn.text, max_chars // 2))
        if current and size + len(turn.text) > max_chars:
            if len(current) >= min_turns:
                yield current
            current, size = [], 0
        current.append(turn)
        size += len(turn.text) + len(turn.speaker) + 2
    if len(current) >= min_turns:
        yield current


def _head(text: str, limit: int) -> str:
    cut = max(text.rfind(mark, 0, limit) for mark in "。！？.!?")
    return text[: cut + 1] if cut > limit // 3 else text[:limit]


def rename(turns: Sequence[Turn], lang: Lang, rng: random.Random) -> list[Turn]:
    """The same turns under invented names, also where a speaker is addressed by the full name."""
    names: dict[str, str] = {}
    for turn in turns:
        if turn.speaker not in names:
            candidate = random_name(lang, rng)
            while candidate in names.values():
                candidate = random_name(lang, rng)
            names[turn.speaker] = candidate
    pattern = re.compile(
        "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if len(name) > 1)
        or r"(?!)"
    )
    return [
        Turn(names[turn.speaker], pattern.sub(lambda match: names[match[0]], turn.text))
        for turn in turns
    ]


def random_name(lang: Lang, rng: random.Random) -> str:
    """An invented person, title or role."""
    names = phrases(lang).names
    kind = rng.random()
    if lang == "zh":
        surname = rng.choice(names["surnames"])
        if kind < 0.62:
            return surname + "".join(rng.choices(names["given"], k=rng.choice((1, 2, 2))))
        if kind < 0.82:
            return surname + rng.choice(names["titles"].split("|"))
        if kind < 0.88:
            return rng.choice(("小", "老")) + surname
    else:
        first = rng.choice(names["first"].split("|"))
        if kind < 0.45:
            return first
        if kind < 0.85:
            return f"{first} {rng.choice(names['last'].split('|'))}"
    return rng.choice(names["roles"].split("|"))
