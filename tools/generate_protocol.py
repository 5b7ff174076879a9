"""Write src/autoglm/protocol/v1 from proto/autoglm/v1: messages for protobuf, and their types.

Usage: generate_protocol.py [DIRECTORY], which is compared with the checked-in files by a test.
"""

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "proto"
TARGET = ROOT / "src/autoglm/protocol/v1"


def generate(directory: Path) -> None:
    """Write the generated files into `directory`."""
    names = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    include = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as out:
        arguments = ["protoc", f"-I{SOURCES}", f"-I{include}"]
        arguments += [f"--python_out={out}", f"--pyi_out={out}", *names]
        if protoc.main(arguments) != 0:
            sys.exit("generate_protocol.py: protoc failed")
        for path in sorted(Path(out, "autoglm/v1").iterdir()):
            text = path.read_text(encoding="utf-8")
            # mypy wants the type arguments that protoc leaves out.
            text = re.sub(r"_Mapping\]", "_Mapping[str, object]]", text)
            (directory / path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
