"""The benchmark of the service: its random schemas, its clients and its table."""

import json
from random import Random

import pytest
from jsonschema import Draft202012Validator
from serving.client import Answer
from serving.report import BEGIN, END, render, section
from serving.schemas import keeps_to, random_object

CHATS = [
    {"name": "chats 1", "model": "large", "tokens_per_s": 30.0, "p95_gap_ms": 40.0},
    {"name": "chats 8", "model": "large", "tokens_per_s": 54.0, "p95_gap_ms": 90.0},
    {"name": "chats 8", "model": "llama.cpp", "tokens_per_s": 27.0, "p95_gap_ms": 99.0},
]
OVERHEAD = {"name": "overhead", "model": "LITE", "added_first_token_ms": 2.0, "speed_share": 0.95}


def document(samples) -> dict:
    return {"time": "2026-11-23T12:00:00", "samples": [{"other_cpus": 0.0, **s} for s in samples]}


@pytest.mark.parametrize("seed", range(50))
def test_random_schemas_are_schemas(seed) -> None:
    Draft202012Validator.check_schema(random_object(Random(seed), 0))


def test_an_answer_that_does_not_validate_does_not_count() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    answer = Answer()
    for text, is_kept in (('{"a": 1}', True), ('{"a": "1"}', False), ('{"a": 1', False)):
        answer.text = text
        assert keeps_to(answer, schema, is_call=False) is is_kept
    assert not keeps_to(answer, schema, is_call=True)
    answer.finish = "tool_calls"
    deltas = [{"index": 0, "function": {"name": "act", "arguments": ""}}]
    deltas.append({"index": 0, "function": {"arguments": json.dumps({"a": 2})}})
    answer.take({"choices": [{"delta": {"tool_calls": deltas}}]})
    assert keeps_to(answer, schema, is_call=True)


def test_the_table_says_what_is_met_and_what_is_missed() -> None:
    text = section(document([*CHATS, OVERHEAD]))
    assert "| all against one | large | 1.80x | ≥ 2x **missed** |" in text
    assert "| all against llama.cpp | large | 2.00x | ≥ 1.5x met |" in text
    assert "| added to the first token | LITE | 2 ms | ≤ 3 ms met |" in text
    assert "| decode speed of the engine's | LITE | 95 % | ≥ 97 % **missed** |" in text


def test_the_page_is_changed_between_its_marks_only(tmp_path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    results.write_text(json.dumps(document(CHATS)), encoding="utf-8")
    render(results, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n2026-11-23")
    assert text.endswith(f"{END}\nafter\n") and "old" not in text
