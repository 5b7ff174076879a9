"""Print the requirements that pyproject.toml states for one purpose, one a line.

The Makefile installs them apart from the package, so that a source change rebuilds that alone.
An extra that names others, as "autoglm[serve,vault]", brings theirs.
Usage: requirements.py {build,runtime,EXTRA}...
"""

import re
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
    own_extras = re.compile(rf"{pyproject['project']['name']}\[([\w,-]+)\]")
    found: list[str] = []
    for stated in pyproject["project"]["optional-dependencies"][purpose]:
        extras = own_extras.fullmatch(stated)
        if extras is None:
            found.append(stated)
        else:
            for extra in extras[1].split(","):
                found += requirements(pyproject, extra)
    return list(dict.fromkeys(found))


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
