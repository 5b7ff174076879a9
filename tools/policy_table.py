"""Put the table of the shipped privacy policy into a page, between its two marks.

Usage: policy_table.py FILE
"""

import sys
from pathlib import Path

from autoglm.privacy.policy import load_policy, table

BEGIN, END = "<!-- policy: begin -->\n", "<!-- policy: end -->"


def main(arguments: list[str]) -> int:
    """Rewrite the page."""
    page = Path(arguments[0])
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + table(load_policy()) + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
