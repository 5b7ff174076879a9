"""LITE as a checkpoint, for whoever compresses it: lite_checkpoint.py --out DIR.

The values are those that the codes of its bundle stand for, so the whole model that recipes are
compared with is the one that ships.
"""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path

from autoglm.errors import AutoGLMError
from autoglm.recovery.floats import read_floats, write_checkpoint


def main() -> int:
    """Write the checkpoint, or say why not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    args = parser.parse_args()
    with resources.as_file(resources.files("autoglm.lite") / "bundle") as bundle:
        try:
            write_checkpoint(args.out, bundle, read_floats(bundle))
        except AutoGLMError as error:
            parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
