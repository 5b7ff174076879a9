"""Runs tasks through a model and scores its answers beside the baselines.

The model is a function from an item to its answer, so that what is measured is what users run.
Answers are kept as they come; a second run goes on after the last one.
"""

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autoglm.errors import InputError
from autoglm.lite.evaluation import baselines
from autoglm.lite.evaluation.facts import match
from autoglm.lite.evaluation.items import Item, Kind, Task
from autoglm.lite.evaluation.scores import answer_scores, is_refusal, rouge, units, unsupported

Answer = Callable[[Item, int], str]
Metrics = dict[str, float]


class AnswerFile:
    """Answers by task and question, appended one by one, so that a run can be resumed.

    A question is known by a digest, so that a run with another limit finds what it shares.
    """

    def __init__(self, path: Path | None, model: str) -> None:
        """Raises InputError if the file holds another model's answers or something else."""
        self._path = path
        self._known: dict[tuple[str, str], str] = {}
        if path is None:
            return
        if not path.exists() or not path.stat().st_size:
            path.write_text(json.dumps({"model": model}) + "\n", encoding="utf-8")
            return
        try:
            head, *lines = path.read_text(encoding="utf-8").splitlines()
            owner = json.loads(head)["model"]
            for line in lines:
                entry = json.loads(line)
                self._known[entry["task"], entry["question"]] = entry["answer"]
        except (ValueError, KeyError, TypeError) as err:
            message = f"{path}: not a file of answers; give the name of a fresh one"
            raise InputError(message) from err
        if owner != model:
            message = f"{path}: holds the answers of another model; give the name of a fresh one"
            raise InputError(message)

    def get(self, task: Task, item: Item) -> str | None:
        """An answer given before."""
        return self._known.get((task.name, _digest(task, item)))

    def add(self, task: Task, item: Item, answer: str) -> None:
        """Remember an answer, with what was asked and what would be right."""
        self._known[task.name, _digest(task, item)] = answer
        if self._path is None:
            return
        entry = {
            "task": task.name,
            "question": _digest(task, item),
            "prompt": item.prompt,
            "references": item.references,
            "answer": answer,
        }
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _digest(task: Task, item: Item) -> str:
    asked = f"{task.max_tokens}\0{item.prompt}\0{item.text}"
    return hashlib.sha256(asked.encode()).hexdigest()[:24]


def run_task(
    task: Task,
    items: Sequence[Item],
    answer: Answer,
    kept: AnswerFile,
    on_item: Callable[[int], None],
    *,
    has_baselines: bool = True,
) -> dict[str, Any]:
    """Answer and score the items; the report has `num`, `seconds` and one entry a system."""
    started = time.perf_counter()
    answers: list[str] = []
    for index, item in enumerate(items):
        found = kept.get(task, item)
        if found is None:
            found = answer(item, task.max_tokens)
            kept.add(task, item, found)
        answers.append(found)
        on_item(index + 1)
    report: dict[str, Any] = {"num": len(items), "seconds": time.perf_counter() - started}
    report["model"] = _SCORERS[task.kind](items, answers)
    if task.kind == "summary" and has_baselines:
        report |= _baselines(items)
    return report


def _mean(rows: Sequence[Metrics]) -> Metrics:
    columns: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            columns[name].append(value)
    return {name: round(math.fsum(values) / len(values), 2) for name, values in columns.items()}


def _summaries(items: Sequence[Item], answers: Sequence[str]) -> Metrics:
    pairs = list(zip(items, answers, strict=True))
    scores = _mean([rouge(item.references[0], answer, item.lang) for item, answer in pairs])
    counts = [unsupported(answer, item.text, item.lang) for item, answer in pairs]
    total = sum(count for _, count in counts)
    scores["unsupported_percent"] = round(
        100.0 * sum(missing for missing, _ in counts) / max(1, total), 2
    )
    scores["names_and_numbers"] = total
    return scores


def _answers(items: Sequence[Item], answers: Sequence[str]) -> Metrics:
    return _mean(
        [
            answer_scores(item.references, answer, item.lang)
            for item, answer in zip(items, answers, strict=True)
        ]
    )


def _refusals(items: Sequence[Item], answers: Sequence[str]) -> Metrics:
    """An item counts as right if it is refused exactly when the text does not answer it."""
    right: dict[bool, list[float]] = {True: [], False: []}
    for item, answer in zip(items, answers, strict=True):
        is_missing = not item.references
        right[is_missing].append(100.0 * (is_refusal(answer) == is_missing))
    missing, present = right[True], right[False]
    return _mean([{"accuracy": value} for value in missing + present]) | {
        "refused_of_missing": _share(missing),
        "answered_of_present": _share(present),
    }


def _share(values: Sequence[float]) -> float:
    return round(math.fsum(values) / max(1, len(values)), 2)


def _facts(items: Sequence[Item], answers: Sequence[str]) -> Metrics:
    """F1 over values of fields, and how many answers are JSON objects at all."""
    found = [
        match(json.loads(item.references[0]), answer)
        for item, answer in zip(items, answers, strict=True)
    ]
    total = sum(each.found + each.wanted for each in found)
    f1 = 2 * sum(each.right for each in found) / max(1, total)
    valid = sum(each.is_valid for each in found) / max(1, len(items))
    return {"valid_json_percent": round(100.0 * valid, 2), "field_f1": round(100.0 * f1, 2)}


def _intents(items: Sequence[Item], answers: Sequence[str]) -> Metrics:
    pairs = zip(items, answers, strict=True)
    rows = [
        {"accuracy": 100.0 * (units(a, "en") == units(i.references[0], "en"))} for i, a in pairs
    ]
    return _mean(rows)


_SCORERS: dict[Kind, Callable[[Sequence[Item], Sequence[str]], Metrics]] = {
    "summary": _summaries,
    "answer": _answers,
    "refusal": _refusals,
    "facts": _facts,
    "intent": _intents,
}


def _baselines(items: Sequence[Item]) -> dict[str, Metrics]:
    """LEAD-3, TextRank of the references' mean length, and the extractive oracle."""
    lengths = [len(units(item.references[0], item.lang)) for item in items]
    budget = max(1, round(sum(lengths) / max(1, len(lengths))))
    rows: dict[str, list[Metrics]] = defaultdict(list)
    known: dict[str, tuple[baselines.Extract, str]] = {}
    for item in items:
        if item.text not in known:
            source = baselines.extract(item.text, item.lang)
            known[item.text] = source, baselines.textrank(source, budget)
        source, central = known[item.text]
        reference = item.references[0]
        found = {
            "lead3": baselines.lead(source),
            "textrank": central,
            "oracle": baselines.oracle(source, reference),
        }
        for name, summary in found.items():
            rows[name].append(rouge(reference, summary, item.lang))
    return {name: _mean(scores) for name, scores in rows.items()}
