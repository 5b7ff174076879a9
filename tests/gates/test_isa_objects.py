"""The check of object files sees instructions and shared functions where they must not be."""

from pathlib import Path

import pytest
from tools.isa_objects import faults

X86 = "x.o:     file format elf64-x86-64\n\n0000 <f>:\n   0:\t{}\n"
ARM = "x.o:     file format elf64-littleaarch64\n\n0000 <f>:\n   0:\t{}\n"


@pytest.mark.parametrize(
    "disassembly",
    [
        X86.format("vaddps %xmm0,%xmm1,%xmm2"),
        X86.format("kmovw  %eax,%k1"),
        ARM.format("sdot\tv0.4s, v1.16b, v2.16b"),
        ARM.format("smmla\tv0.4s, v1.16b, v2.16b"),
    ],
)
def test_later_instruction_in_a_baseline_object_is_a_fault(disassembly):
    assert len(faults(Path("moe.cc.o"), disassembly, "")) == 1


@pytest.mark.parametrize(
    "disassembly",
    [
        X86.format("addps  %xmm0,%xmm1"),
        X86.format("verr   %ax"),
        ARM.format("bfxil\tx0, x1, #0, #8"),
    ],
)
def test_baseline_instruction_is_no_fault(disassembly):
    assert faults(Path("moe.cc.o"), disassembly, "") == []


def test_inline_function_of_an_instruction_set_is_a_fault():
    disassembly = X86.format("vaddps %ymm0,%ymm1,%ymm2")
    symbols = "0000 W std::max(int, int)\n0000 T table\n"
    assert faults(Path("avx2.cc.o"), disassembly, symbols) == [
        "avx2.cc.o: shares std::max(int, int)"
    ]


def test_object_of_an_instruction_set_without_its_instructions_is_a_fault():
    assert len(faults(Path("amx.cc.o"), X86.format("addps  %xmm0,%xmm1"), "")) == 1
