"""Build the word and name lists of the detectors, src/autoglm/privacy/pii/data.

English: words that texts write small, words that they write large without being names, and names.
Chinese: how much more often a pair of characters stands in texts than in names. Names come from the
package Faker (MIT), texts from the corpora that are named.
"""

from __future__ import annotations

import argparse
import importlib
import math
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from autoglm.privacy.pii.lexicon import characters

LOCALES = [
    *("en_US", "en_GB", "de_DE", "fr_FR", "it_IT", "es_ES", "cs_CZ", "sl_SI", "fi_FI", "sv_SE"),
    *("da_DK", "no_NO", "hu_HU", "pl_PL", "nl_NL", "pt_PT", "pt_BR", "hr_HR", "is_IS", "de_AT"),
    *("fr_CH", "es_MX", "en_IN", "ro_RO", "sk_SK", "et_EE"),
]
DATA = Path(__file__).parents[1] / "src/autoglm/privacy/pii/data"
MAX_BYTES = 24 * 2**20
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_MID_SENTENCE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+\b")
_HAN = re.compile(r"[\u4e00-\u9fff]+")
_NAME = re.compile(r"[^\W\d_]{2,}")
MIN_SMALL = 4
MANY_SMALL = 60
MIN_LARGE = 12
MIN_PAIR = 3
CHAPTER = 50_000
# The part of the chapters in which a word stands at least.
COMMON = 0.05
# Steps of the stored ratios: digit d stands for d - OFFSET nats.
OFFSET = 4


def texts(paths: list[Path]) -> Iterator[str]:
    """The beginning of each file, which may be packed with zstd."""
    for path in paths:
        if path.suffix == ".zst":
            command = ["zstd", "--long=27", "-dcq", str(path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                if process.stdout is None:
                    continue
                content = process.stdout.read(MAX_BYTES)
                process.kill()
        else:
            content = path.read_bytes()[:MAX_BYTES]
        yield content.decode("utf-8", "ignore")


def faker_names(locales: list[str], *attributes: str) -> set[str]:
    """Names of these locales, in small letters."""
    found: set[str] = set()
    for locale in locales:
        provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        for attribute in dir(provider):
            values = getattr(provider, attribute)
            if attribute.startswith(attributes) and not callable(values):
                for value in values:
                    found.update(part.lower() for part in _NAME.findall(str(value)))
    return found


def write_english(paths: list[Path]) -> None:
    """The lists of English words and Western names."""
    small: Counter[str] = Counter()
    large: Counter[str] = Counter()
    for text in texts(paths):
        small.update(word for word in _WORD.findall(text) if word.islower())
        large.update(_MID_SENTENCE.findall(text))
    names = faker_names(LOCALES, "first_names", "last_names")
    firsts = faker_names(["en_US", "en_GB"], "first_names")
    common = {
        word
        for word, count in small.items()
        if word.isascii()
        and count >= MIN_SMALL
        and (count >= MANY_SMALL or count * 2 >= large[word.capitalize()])
    }
    proper = {
        word.lower()
        for word, count in large.items()
        if count >= MIN_LARGE and word.lower() not in names | common
    }
    lists = {"words": common, "proper": proper, "names": names, "firsts": firsts & common}
    for name, words in lists.items():
        target = DATA / f"en_{name}.txt"
        target.write_text("\n".join(sorted(words)) + "\n", encoding="utf-8")


def write_chinese(paths: list[Path]) -> None:
    """zh_pairs.txt: a character, those that follow it, and the digits of their ratios."""
    surnames, ranked = characters("zh_surnames"), characters("zh_given")
    single: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    spread: Counter[str] = Counter()
    given = frozenset(ranked)
    wanted = frozenset(surnames) | given
    num_chapters = 0
    for text in texts(paths):
        for start in range(0, len(text), CHAPTER):
            found: Counter[str] = Counter()
            for run in _HAN.findall(text[start : start + CHAPTER]):
                single.update(run)
                found.update(
                    run[place : place + 2]
                    for place in range(len(run) - 1)
                    if run[place] in surnames or (run[place] in given and run[place + 1] in given)
                )
            pairs.update(found)
            spread.update(found.keys())
            num_chapters += 1
    weights = {char: 1 / (rank + 60) for rank, char in enumerate(ranked)}
    total = sum(weights.values())
    following: defaultdict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        following[pair[0]].append(pair[1])
    lines = []
    for char in sorted(wanted):
        followers, digits = "", ""
        for other in sorted(following[char]):
            pair = char + other
            if pairs[pair] < MIN_PAIR:
                continue
            # Names of people in the texts stand in few chapters, words in many.
            count = pairs[pair] * min(1, spread[pair] / num_chapters / COMMON)
            share = weights.get(other, min(weights.values())) / total
            digit = min(9, max(0, round(math.log(count / single[char] / share)) + OFFSET))
            if digit:
                followers, digits = followers + other, digits + str(digit)
        if followers:
            lines.append(f"{char} {followers} {digits}")
    (DATA / "zh_pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Write the lists of the languages that texts were given for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--english", type=Path, nargs="+", default=[])
    parser.add_argument("--chinese", type=Path, nargs="+", default=[])
    args = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    if args.english:
        write_english(args.english)
    if args.chinese:
        write_chinese(args.chinese)
    return 0


if __name__ == "__main__":
    sys.exit(main())
