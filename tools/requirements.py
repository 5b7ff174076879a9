"""Print the requirements that pyproject.toml states for one purpose, one a line.

The Makefile installs them apart from the package, so that a source change rebuilds that alone.
Usage: requirements.py {build,runtime,EXTRA}...
"""

import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(pyproject: dict[str, Any], purpose: str) -> list[str]:
    """Return what `purpose` needs: "build", "runtime" or the name of an extra."""
    if purpose == "build":
        return list(pyproject["build-system"]["requires"])
    if purpose == "runtime":
        return list(pyproject["project"]["dependencies"])
    return list(pyproject["project"]["optional-dependencies"][purpose])


def main(purposes: list[str]) -> int:
    """Print the requirements of every purpose named."""
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    pyproject = tomllib.loads(text)
    for purpose in purposes:
        for requirement in requirements(pyproject, purpose):
            sys.stdout.write(requirement + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
