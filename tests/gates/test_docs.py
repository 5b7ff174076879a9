"""What the documentation shows works: examples run, links lead to files, settings are named."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from autoglm.config import Settings

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
# Placeholders for the reader's own files, and commands of other tests.
NOT_RUN = re.compile(r"SRC|OUT|notes\.txt|^make |^\.venv/")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(language: str) -> list[tuple[str, str]]:
    found = [(page, BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES]
    return [(name(page), code) for page, all_ in found for lang, code in all_ if lang == language]


def commands() -> list[str]:
    lines = (line for _, code in blocks("sh") for line in code.splitlines())
    return sorted({line for line in lines if line and not NOT_RUN.search(line)})


def run(arguments: list[str]) -> None:
    done = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("command", commands())
def test_shell_example_runs(command):
    program, *arguments = shlex.split(command)
    assert program == "autoglm"
    run([sys.executable, "-m", "autoglm", *arguments])


@pytest.mark.parametrize(("page", "code"), [b for b in blocks("python") if "print" in b[1]])
def test_python_example_runs(page, code):
    run([sys.executable, "-c", code])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_setting_is_documented():
    text = (ROOT / "docs/guide/generate.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert documented == {field.name for field in fields(Settings)} - {"offline"}
