"""Rules of the source tree that no linter checks: size caps, docstrings, silenced checks."""

import ast
import re
from pathlib import Path

import pytest
from tools.size import AREAS, CAPS, ROOT, num_lines

MAX_FUNCTION_LINES = 60
MAX_DOCSTRING_LINES = 6
SILENCED = re.compile(r"#\s*noqa|#\s*type:\s*ignore|NOLINT|\b(TODO|FIXME|XXX)\b")


def files(*suffixes: str) -> list[Path]:
    found = (path for area in AREAS for path in sorted((ROOT / area).rglob("*")))
    return [path for path in found if path.suffix in suffixes and path != Path(__file__)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", files(".py"), ids=name)
def test_python_file_keeps_the_style(path):
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    long = [f.name for f in functions(path) if f.end_lineno - f.lineno >= MAX_FUNCTION_LINES]

    assert num_lines(path) <= CAPS[path.suffix]
    assert docstring, "a module docstring says what the file owns"
    assert docstring.count("\n") < MAX_DOCSTRING_LINES
    assert long == [], f"functions of {MAX_FUNCTION_LINES} lines or more"


@pytest.mark.parametrize("path", files(".cc", ".h"), ids=name)
def test_cpp_file_keeps_its_cap(path):
    assert num_lines(path) <= CAPS[path.suffix]


@pytest.mark.parametrize("path", files(".py", ".pyi", ".cc", ".h"), ids=name)
def test_no_check_is_silenced_and_nothing_is_left_to_do(path):
    assert SILENCED.findall(path.read_text(encoding="utf-8")) == []
