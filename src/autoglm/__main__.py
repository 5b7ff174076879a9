"""`python -m autoglm`: the same program as the `autoglm` command."""

from __future__ import annotations

import sys

from autoglm.cli.entry import entry_point

if __name__ == "__main__":
    sys.exit(entry_point())
