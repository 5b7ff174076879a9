"""Western names: capitalised words that are names by a list or that no list of words knows.

A capitalised word in the middle of a sentence is taken for a name unless texts use it otherwise:
what is hidden without need costs less than what is told. tools/privacy_lists.py makes the lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from autoglm.privacy.pii.kinds import Finding, Kind
from autoglm.privacy.pii.lexicon import any_of, words

# Vietnamese letters alternate, the large ones have even numbers.
_LARGE_VIETNAMESE = "".join(chr(code) for code in range(0x1E00, 0x1F00, 2))
_LETTER = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ӿ\u1e00-\u1eff"
_CAPITAL = (
    "A-ZÀ-ÖØ-ÞĀĂĄĆĈĊČĎĐĒĔĖĘĚĜĞĠĢĤĦĨĪĬĮİĴĶĹĻĽĿŁŃŅŇŌŎŐŒŔŖŘŚŜŞŠŢŤŦŨŪŬŮŰŲŴŶŸŹŻŽƠƯΆ-ΏΑ-ΫА-Я"
    f"{_LARGE_VIETNAMESE}"
)
_WORD = rf"[{_CAPITAL}][{_LETTER}]*(?:['’\-][{_LETTER}]+)*"
_ABBREVIATED = r"(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Rev|Hon|Capt|Lt|Col|Sgt|[A-Z])\."
_PARTICLE = f"(?:{any_of('western_particles')})"
_SEQUENCE = re.compile(
    rf"(?<![{_LETTER}0-9_'’@#/.$-])(?:{_ABBREVIATED}|{_WORD})"
    rf"(?: (?:{_PARTICLE}[ -]){{0,2}}(?:{_ABBREVIATED}|{_WORD})){{0,9}}(?![{_LETTER}0-9_@/])"
)
_TOKEN = re.compile(rf"{_ABBREVIATED}|[{_LETTER}]+(?:['’\-][{_LETTER}]+)*")
_NEXT_SMALL = re.compile(rf" ((?:[{_LETTER}]+(?:['’\-][{_LETTER}]+)*|[a-z]\.))(?![{_LETTER}0-9@])")
_LAST_SMALL = re.compile(rf"(?<![{_LETTER}])((?:[{_LETTER}]+(?:['’\-][{_LETTER}]+)*\.?)) $")
_CONTRACTED = re.compile(r"['’](?:m|d|ll|ve|re|t)$|^[^'’]{1,2}['’]s$")
_SMALL = re.compile(rf"(?<![{_LETTER}0-9_@./\\-])[{_LETTER}]{{4,}}(?![{_LETTER}0-9_@/\\])")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n\"“”(\[*>|•-]|\d[.)])\s*$")
_POSSESSIVE = re.compile(r"['’]s?$")
_MONTHS = frozenset({"april", "may", "june", "august"})
_TIME_BEFORE = re.compile(
    r"(?:in|of|by|since|until|till|from|to|before|after|last|next|this|\d) ?$"
)
_BREAKS = frozenset(
    {"i", "a", "the", "in", "on", "at", "to", "for", "of", "and", "or", "but", "if"}
)


class _Token(NamedTuple):
    start: int
    end: int
    text: str


class WesternNames:
    """Finds persons and organisations; the lists are read once, when it is made."""

    def __init__(self) -> None:
        self._words = frozenset(words("en_words"))
        self._proper = frozenset(words("en_proper"))
        self._firsts = frozenset(words("en_firsts"))
        self._titles = frozenset(words("en_titles"))
        self._not_names = frozenset(words("en_not_names"))
        self._joined = frozenset((*words("western_particles"), *words("western_degrees")))
        self._organisation_ends = frozenset(words("en_organisation_ends"))
        names = frozenset(words("en_names"))
        self._names = names | frozenset(words("pinyin"))
        self._small_names = names - self._words - self._proper - frozenset(words("pinyin"))

    def is_word(self, word: str) -> bool:
        """Whether this word, in small letters, is one of everyday English."""
        return word in self._words or word in self._proper

    def find(self, text: str) -> Iterator[Finding]:
        """Names in a folded text."""
        for match in _SEQUENCE.finditer(text):
            small = match.group().lower()
            if small in self._words and small not in self._names:
                continue
            yield from self._in_sequence(text, match.start(), match.group())
        if not self._small_names.isdisjoint(_SMALL.findall(text)):
            for match in _SMALL.finditer(text):
                if match.group() in self._small_names:
                    yield self._widened(text, match.start(), match.end())

    def _widened(self, text: str, start: int, end: int) -> Finding:
        """A name in small letters with the unknown words, initials and titles beside it."""
        for _ in range(3):
            after = _NEXT_SMALL.match(text, end)
            if after is None or not self._may_be_small_name(after.group(1)):
                break
            end = after.end()
        for _ in range(3):
            before = _LAST_SMALL.search(text, max(0, start - 24), start)
            if before is None or not self._may_be_small_name(before.group(1)):
                break
            start = before.start(1)
        return Finding(start, end, Kind.PERSON)

    def _may_be_small_name(self, word: str) -> bool:
        small = word.rstrip(".")
        if len(small) < 2:
            return word not in ("i", "a")
        return small in self._titles or small in self._names or small not in self._words

    def _in_sequence(self, text: str, offset: int, sequence: str) -> Iterator[Finding]:
        tokens = [
            _Token(offset + token.start(), offset + token.end(), token.group())
            for token in _TOKEN.finditer(sequence)
        ]
        last = tokens[-1].text.rstrip(".").lower()
        is_start = _SENTENCE_START.search(text[max(0, offset - 4) : offset]) is not None
        if is_start and len(tokens) > 1 and tokens[0].text.lower() in _BREAKS:
            tokens, is_start = tokens[1:], False
        if len(tokens) > 1 and last in self._organisation_ends:
            yield Finding(tokens[0].start, tokens[-1].end, Kind.ORGANISATION)
            return
        run: list[_Token] = []
        for place, token in enumerate(tokens):
            if self._belongs(token.text, run, tokens[place + 1 : place + 2]):
                run.append(token)
            else:
                yield from self._person(text, run, is_start=is_start and place == len(run))
                run = []
        yield from self._person(text, run, is_start=is_start and len(tokens) == len(run))

    def _belongs(self, word: str, run: list[_Token], following: list[_Token]) -> bool:
        small = _POSSESSIVE.sub("", word).rstrip(".").lower()
        if small in self._titles or len(small) == 1:
            return word not in ("I", "A") or bool(run)
        if run and (small in self._joined):
            return True
        if _CONTRACTED.search(word) or (
            word.isupper() and 1 < len(word) <= 5 and small not in self._names
        ):
            return False
        is_common = all(len(part) == 1 or self.is_word(part) for part in small.split("-"))
        if small in self._names and not is_common:
            return True
        if not is_common:
            return not _is_coined(word)
        if run and not run[-1].text.endswith(("'s", "’s")):
            # A surname may be a common word: Mary Carpenter.
            last = run[-1].text.rstrip(".").lower()
            is_given = last not in self._words or last in self._firsts
            return is_given and small not in _BREAKS
        if small not in self._names:
            return False
        return small in self._firsts or (
            len(small) > 2 and any(self._is_name_only(next_.text) for next_ in following)
        )

    def _is_name_only(self, word: str) -> bool:
        small = word.rstrip(".").lower()
        return len(small) == 1 or small not in self._words or small in self._firsts

    def _is_other_word(self, text: str, token: _Token, small: str) -> bool:
        """Whether a name that stands alone is a language, a product or a month."""
        if small in _MONTHS:
            return _TIME_BEFORE.search(text[max(0, token.start - 8) : token.start]) is not None
        return small in self._not_names

    def _person(self, text: str, run: list[_Token], *, is_start: bool) -> Iterator[Finding]:
        parts = [_POSSESSIVE.sub("", token.text).rstrip(".").lower() for token in run]
        named = [word for word in parts if len(word) > 1 and word not in self._titles]
        is_title = bool(parts) and parts[0] in self._titles
        if not named or (not is_title and all(word in self._proper for word in named)):
            return
        if len(named) == 1 and not is_title and self._is_other_word(text, run[0], named[0]):
            return
        last = run[-1]
        is_label = text.startswith(":", last.end)
        is_single = is_start and len(named) == 1 and named[0] in self._words
        if is_single and not is_title and not is_label:
            return
        end = last.end - (len(last.text) - len(_POSSESSIVE.sub("", last.text)))
        yield Finding(run[0].start, end, Kind.PERSON)


def _is_coined(word: str) -> bool:
    """Whether a word has capitals inside, as names of programs do and McDonald does not."""
    inner = word[1:]
    if inner.islower() or word.isupper():
        return False
    return not re.match(r"(?:Mc|Mac|O['’]|D['’]|De|Di|La|Le|Van|Von|Fitz)[A-Z]|[^-]+-[A-Z]", word)
