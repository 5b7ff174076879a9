"""Check that each instruction set stays in the files that are chosen at run time.

A build for old processors must hold no later instruction outside those files, and those files must
share no inline function with others: the linker keeps one copy, and it could be theirs.
Usage: isa_objects.py BUILD_DIR [TOOL_PREFIX]
"""

import re
import subprocess
import sys
from pathlib import Path

# Files of kernels by what their instructions look like in a disassembly.
X86 = re.compile(r"\tv(?!er[rw])[a-z]|%[yz]mm|%tmm|%k[1-7]\b")
ARM = re.compile(r"\t(?:[su]s?dot|sudot|u?s?mmla|bfdot|bfmmla|bfmlal[bt])\t")
OWNERS = {
    "avx2": X86,
    "avx512": X86,
    "amx": X86,
    "sparse_avx2": X86,
    "sparse_vbmi2": X86,
    "neon_dotprod": ARM,
    "neon_i8mm": ARM,
}
INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:(\t.*)$", re.MULTILINE)
SHARED_SYMBOL = re.compile(r"^[0-9a-f]+ [Wu] (.*)$", re.MULTILINE)


def output_of(command: list[str]) -> str:
    """Standard output of a binary tool."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def later_instructions(disassembly: str) -> list[str]:
    """Instructions that the baseline processor of the object lacks."""
    pattern = X86 if "x86-64" in disassembly else ARM
    lines = INSTRUCTION.findall(disassembly)
    return [line.strip() for line in lines if pattern.search(line)]


def faults(path: Path, disassembly: str, symbols: str) -> list[str]:
    """What is wrong with one object, as lines to print."""
    later = later_instructions(disassembly)
    if path.name.split(".")[0] not in OWNERS:
        return [f"{path.name}: has {later[0]!r}, as {len(later)} instructions"] if later else []
    found = [f"{path.name}: shares {name}" for name in SHARED_SYMBOL.findall(symbols)]
    return found if later else [*found, f"{path.name}: has no instruction of its own set"]


def main(arguments: list[str]) -> int:
    """Check every object of the core library."""
    prefix = arguments[1] if len(arguments) > 1 else ""
    objects = sorted(Path(arguments[0]).rglob("autoglm_core.dir/**/*.o"))
    problems = [] if objects else [f"{arguments[0]}: no objects; build first"]
    for path in objects:
        disassembly = output_of([prefix + "objdump", "-d", "--no-show-raw-insn", str(path)])
        symbols = output_of([prefix + "nm", "--defined-only", "-C", str(path)])
        problems += faults(path, disassembly, symbols)
    for problem in problems:
        sys.stderr.write(problem + "\n")
    sys.stdout.write(f"{len(objects)} objects checked, {len(problems)} problems\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
