"""The best, middle and worst answers of a task, from the file that `autoglm eval --answers` keeps.

Run as `python -m autoglm.lite.evaluation.samples ANSWERS --task NAME [--number N]`.
"""

import argparse
import json
import sys
from pathlib import Path

from autoglm.errors import InputError
from autoglm.lite.evaluation.items import TASKS
from autoglm.lite.evaluation.scores import answer_scores, rouge
from autoglm.lite.reader.text import language


def scored(path: Path, task_name: str) -> list[tuple[float, dict[str, str]]]:
    """Answers of a task with ROUGE-1 or F1, the best first. Raises InputError."""
    task = next((each for each in TASKS if each.name == task_name), None)
    if task is None or task.kind not in ("summary", "answer"):
        message = f"'{task_name}' is no task of summaries or answers"
        raise InputError(message)
    found: list[tuple[float, dict[str, str]]] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            entry = json.loads(line)
            if entry["task"] == task_name:
                found.append((_score(entry, task.kind), entry))
    except (OSError, ValueError, KeyError, IndexError) as err:
        message = f"{path}: not a file of answers ({type(err).__name__})"
        raise InputError(message) from err
    return sorted(found, key=lambda pair: -pair[0])


def _score(entry: dict[str, list[str]], kind: str) -> float:
    references, answer = tuple(entry["references"]), str(entry["answer"])
    lang = language(references[0])
    if kind == "answer":
        return answer_scores(references, answer, lang)["f1"]
    return rouge(references[0], answer, lang)["rouge1"]


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--number", type=int, default=3, help="of each kind")
    args = parser.parse_args()
    found = scored(args.answers, args.task)
    middle = max(0, (len(found) - args.number) // 2)
    for title, start in (("best", 0), ("middle", middle), ("worst", -args.number)):
        sys.stdout.write(f"## {title}\n")
        for score, entry in found[start:][: args.number]:
            sys.stdout.write(
                f"\n{score:.0f}: {entry['prompt']}\nwanted: {entry['references'][0]}\n"
            )
            sys.stdout.write(f"given: {entry['answer']}\n")


if __name__ == "__main__":
    main()
