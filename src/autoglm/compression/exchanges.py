"""Rows in a file of JSON lines: what is asked, about which text, and a good answer.

Calibration and training read them in the model's chat form, with the answers behind; beside them
rows with a text alone, as it stands. Evaluation asks, and compares answers with the good ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from autoglm.engine.prompt import PromptBuilder
from autoglm.engine.template import render_apart
from autoglm.engine.tokenizer import Tokenizer
from autoglm.errors import InputError
from autoglm.inputs.text import read_text
from autoglm.modelfile.tokenizer import read_tokenizer_texts
from autoglm.types import Message, Request

SUFFIX = ".jsonl"
MAX_FILE_BYTES = 256 << 20
_KEYS = frozenset({"prompt", "text", "reference"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A row that asks. `text` is a document that belongs to the prompt, or None."""

    prompt: str
    text: str | None
    reference: str

    def request(self, max_tokens: int | None = None) -> Request:
        """What the model is asked; greedy."""
        messages = (Message("user", self.prompt),)
        return Request(messages=messages, text=self.text, max_tokens=max_tokens)


class RowTokens(NamedTuple):
    """Token ids of rows one after the other, where each row begins, and the ranges to learn.

    Of a row that asks this is the answer, of a text alone all of it.
    """

    ids: list[int]
    starts: list[int]
    learnt: list[tuple[int, int]]


def read_exchanges(path: Path) -> list[Exchange]:
    """The rows of a task, all of which ask; InputError names the first line that does not."""
    found = []
    for number, row in enumerate(_read_rows(path), start=1):
        if isinstance(row, str):
            message = f"{path}: row {number} has a text alone; a task has prompts and references"
            raise InputError(message)
        found.append(row)
    return found


def row_tokens(path: Path, model: Path, tokenizer: Tokenizer) -> RowTokens:
    """The rows as the model in `model` meets them. Raises InputError, ModelFileError."""
    texts = read_tokenizer_texts(model)
    prompts = PromptBuilder(
        tokenizer,
        texts.chat_template,
        render=render_apart,
        special_tokens={"bos_token": texts.bos_token, "eos_token": texts.eos_token},
    )
    end = tokenizer.encode(texts.eos_token) if texts.eos_token else []
    ids: list[int] = []
    starts = []
    learnt = []
    for row in _read_rows(path):
        starts.append(len(ids))
        if isinstance(row, Exchange):
            ids += prompts.encode(row.request())
        last = row if isinstance(row, str) else row.reference
        begin = len(ids)
        ids += tokenizer.encode(last, has_controls=False) + end
        learnt.append((begin, len(ids)))
    return RowTokens(ids, starts, learnt)


def _read_rows(path: Path) -> list[Exchange | str]:
    """Exchanges, and texts that stand alone; empty lines are left out."""
    content = read_text(str(path), max_bytes=MAX_FILE_BYTES)
    lines = enumerate(content.split("\n"), start=1)
    return [_row(path, number, line) for number, line in lines if line.strip()]


def _row(path: Path, number: int, line: str) -> Exchange | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as err:
        message = f"{path}: line {number} is not JSON"
        raise InputError(message) from err
    if not isinstance(row, dict) or not row.keys() <= _KEYS:
        message = f"{path}: line {number} is no object of prompt, text and reference alone"
        raise InputError(message)
    values = [row.get(key, "") for key in ("prompt", "text", "reference")]
    strings = [value for value in values if isinstance(value, str)]
    if len(strings) < len(values):
        message = f"{path}: line {number} has a value that is no string"
        raise InputError(message)
    prompt, text, reference = strings
    if prompt.strip() and reference.strip():
        return Exchange(prompt=prompt, text=text or None, reference=reference)
    if text.strip() and not prompt and not reference:
        return text
    message = f"{path}: line {number} needs a prompt and a reference, or a text alone"
    raise InputError(message)
