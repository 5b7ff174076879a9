"""Where the program starts: loads the command line so that Ctrl-C while it loads is one line too.

Imports next to nothing, because what it imports cannot be guarded.
"""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130


def entry_point() -> int:
    """The console script. What is interrupted here has nothing to put in order."""
    try:
        from autoglm.cli.main import entry_point as run

        return run()
    except KeyboardInterrupt:
        if "--debug" in sys.argv:
            raise
        os.write(2, b"autoglm: interrupted\n")
        os._exit(INTERRUPTED)
