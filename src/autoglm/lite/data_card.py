"""The data card: tokens by source and licence of packed sets, as a Markdown table.

Run as `python -m autoglm.lite.data_card corpus/card.json answers/card.json`.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path


def table(cards: list[Path]) -> str:
    """One row a source, tasks made from it counted with it; tokens as packed, in thousands."""
    tokens: Counter[str] = Counter()
    licences: dict[str, tuple[str, str]] = {}
    for card in cards:
        for source in json.loads(card.read_text(encoding="utf-8"))["sources"]:
            name = source["name"].split("/")[0]
            tokens[name] += source["tokens"]
            licence, terms = source["licence"]
            licences[name] = (licence, terms)
    lines = ["| Source | Class | Licence | k tokens |", "|---|---|---|---|"]
    for name, count in tokens.most_common():
        lines.append(f"| {name} | {' | '.join(licences[name])} | {round(count / 1e3)} |")
    lines.append(f"| **all** | | | {round(tokens.total() / 1e3)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cards", type=Path, nargs="+")
    sys.stdout.write(table(parser.parse_args().cards) + "\n")


if __name__ == "__main__":
    main()
