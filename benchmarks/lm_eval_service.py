"""Runs lm-eval's own `local-completions` against the service and compares with the engine's scores.

Usage: lm_eval_service.py --venv DIR, an environment that is made when it is missing: the package
brings half a gigabyte that nothing else here needs. Prints accuracy and the largest difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from serving.client import own_service

from autoglm.engine.model import embedded_model, load_engine
from autoglm.types import Cancellation

REQUIREMENTS = ("lm-eval[api]>=0.4.9,<1", "transformers>=5")
TASK, WRITING = "autoglm_choices", "autoglm_writing"
# Sums of logarithms of probabilities travel as JSON and are added in another order.
TOLERANCE = 1e-3
PEOPLE = ("Ann", "Bob", "张敏", "李强")
DAYS = ("Monday", "Friday", "周五", "月底")


def items() -> list[dict[str, Any]]:
    """Questions with choices."""
    found = []
    for number, (person, day) in enumerate((p, d) for p in PEOPLE for d in DAYS):
        question = f"{person}: We ship on {day}.\nQuestion: Who speaks?\nAnswer:"
        choices = [f" {name}" for name in PEOPLE]
        found.append(
            {"question": question, "choices": choices, "answer": PEOPLE.index(person), "id": number}
        )
    return found


def write_tasks(folder: Path) -> None:
    """A task that scores choices, and one that writes."""
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in items()), encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "metadata": {"version": 1},
    }
    choices = {
        "task": TASK,
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    writing = {
        "task": WRITING,
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    }
    for task in (choices, writing):
        # JSON is YAML too.
        (folder / f"{task['task']}.yaml").write_text(json.dumps(common | task), encoding="utf-8")


def make_venv(venv: Path) -> Path:
    """Its interpreter."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
    return python


def evaluate(python: Path, folder: Path, port: int) -> None:
    """Run lm-eval as its users do."""
    model = {
        "model": "lite",
        "base_url": f"http://127.0.0.1:{port}/v1/completions",
        "tokenizer": str(embedded_model()),
        "tokenizer_backend": "huggingface",
        "num_concurrent": "1",
        "max_retries": "1",
    }
    command: list[str | Path] = [
        python,
        "-m",
        "lm_eval",
        "--model",
        "local-completions",
        "--log_samples",
    ]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in model.items())]
    command += ["--tasks", f"{TASK},{WRITING}", "--include_path", folder]
    command += ["--output_path", folder / "out"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    subprocess.run(command, check=True, env=os.environ | offline)


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """What lm-eval saw of every item."""
    (path,) = (folder / "out").rglob(f"samples_{task}_*.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda one: one["doc"]["id"])


def expected() -> list[list[float]]:
    """The engine's own score of every choice of every item."""
    _, engine = load_engine(None, max_tokens=8, threads=2, precision="fast")
    scores = []
    for item in items():
        num_read = len(engine.token_ids(item["question"]))
        row = []
        for choice in item["choices"]:
            ids = engine.token_ids(item["question"] + choice)
            found = engine.logprobs(ids, 0, Cancellation())
            row.append(sum(one.logprob for one in found[num_read - 1 :]))
        scores.append(row)
    return scores


def main() -> int:
    """Evaluate and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--venv", metavar="DIR", type=Path, required=True)
    args = parser.parse_args()
    python = make_venv(args.venv.absolute())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tasks(folder)
        with own_service([]) as server:
            evaluate(python, folder, server.port)
        seen = [[float(choice[0][0]) for choice in one["resps"]] for one in samples(folder, TASK)]
        written = [one["resps"][0][0] for one in samples(folder, WRITING)]
    wanted = expected()
    flat = [[score for row in rows for score in row] for rows in (seen, wanted)]
    worst = max(abs(a - b) for a, b in zip(*flat, strict=True))
    answers = [item["answer"] for item in items()]
    right = sum(row.index(max(row)) == a for row, a in zip(seen, answers, strict=True))
    print(f"lm-eval scored {len(flat[0])} choices, {right} of {len(seen)} right; the engine's own")
    print(f"scores differ by {worst:.2g} at most; {len(written)} answers written")
    return 0 if worst <= TOLERANCE and all(written) else 1


if __name__ == "__main__":
    sys.exit(main())
