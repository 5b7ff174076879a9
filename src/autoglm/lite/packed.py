"""Packed token files, and batches of them as a function of seed and position alone.

Every epoch is a new permutation of the rows, so a resumed run reads what it would have read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoglm.errors import InvalidRequestError


def _files(folder: Path, kind: str) -> list[Path]:
    """Files with anything in them: a source may have no held-out document."""
    return [file for file in sorted(folder.glob(f"{kind}_*.bin")) if file.stat().st_size]


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring rows that an epoch reads `repeat` times."""

    first: int
    num_rows: int
    repeat: float = 1.0


class PackedRows:
    """Memory-mapped rows of token ids; without mask files every token carries loss."""

    def __init__(self, folder: Path, row_tokens: int | None = None) -> None:
        card = json.loads((folder / "card.json").read_text())
        self.row_tokens: int = row_tokens or card["row_tokens"]
        self._tokens = self._open(folder, "tokens", np.uint16)
        self._mask = self._open(folder, "mask", np.uint8)
        if self._mask and self.row_tokens != card["row_tokens"]:
            message = (
                f"{folder}: rows hold examples of up to {card['row_tokens']} tokens and cannot be "
                f"read as rows of {self.row_tokens}; pack them again"
            )
            raise InvalidRequestError(message)
        self.num_rows = sum(len(part) for part in self._tokens)
        if not self.num_rows:
            message = f"{folder}: no packed rows; run autoglm.lite.pack first"
            raise InvalidRequestError(message)
        repeat = {f"tokens_{s['name']}": s.get("repeat", 1.0) for s in card.get("sources", [])}
        self.spans: list[Span] = []
        first = 0
        for file, part in zip(_files(folder, "tokens"), self._tokens, strict=True):
            self.spans.append(Span(first, len(part), repeat.get(file.stem, 1.0)))
            first += len(part)

    def _open(self, folder: Path, kind: str, dtype: type) -> list[Any]:
        parts = [np.memmap(f, dtype=dtype, mode="r") for f in _files(folder, kind)]
        whole = [part[: len(part) // self.row_tokens * self.row_tokens] for part in parts]
        return [part.reshape(-1, self.row_tokens) for part in whole]

    def batch(self, indices: list[int] | range) -> tuple[Tensor, Tensor]:
        """Inputs and targets [count, row_tokens]; a target of -1 carries no loss."""
        rows = [self._row(index) for index in indices]
        ids = torch.from_numpy(np.stack([row[0] for row in rows]).astype(np.int64))
        targets = torch.full_like(ids, -1)
        targets[:, :-1] = ids[:, 1:]
        if self._mask:
            mask = torch.from_numpy(np.stack([row[1] for row in rows]))
            targets[:, :-1].masked_fill_(mask[:, 1:] == 0, -1)
        return ids, targets

    def _row(self, index: int) -> tuple[Any, Any]:
        for part, tokens in enumerate(self._tokens):
            if index < len(tokens):
                return tokens[index], self._mask[part][index] if self._mask else None
            index -= len(tokens)
        message = f"row {index} is beyond the packed files"
        raise InvalidRequestError(message)


class RowOrder:
    """Endless permutations of spans of rows, each row as often as its span says."""

    def __init__(self, spans: list[Span], seed: int) -> None:
        self._spans = spans
        self._seed = seed
        self.epoch_rows = sum(round(span.num_rows * span.repeat) for span in spans)
        self._epoch = -1
        self._order: Any = None

    def rows(self, first: int, count: int) -> list[int]:
        """The rows at positions `first` to `first + count`."""
        return [self._row(position) for position in range(first, first + count)]

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, self.epoch_rows)
        if epoch != self._epoch:
            generator = np.random.default_rng([self._seed, epoch])
            drawn = [_draw(span, generator) for span in self._spans if span.num_rows]
            self._order, self._epoch = generator.permutation(np.concatenate(drawn)), epoch
        return int(self._order[place])


def _draw(span: Span, generator: np.random.Generator) -> Any:
    whole, rest = divmod(round(span.num_rows * span.repeat), span.num_rows)
    rows = np.arange(span.first, span.first + span.num_rows)
    return np.concatenate([np.tile(rows, whole), generator.permutation(rows)[:rest]])


@dataclass(frozen=True, slots=True)
class Positions:
    """Rows read so far of each set."""

    texts: int = 0
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Micro-batches of one update, and where the next begins."""

    parts: list[tuple[Tensor, Tensor]]
    following: Positions


class BatchReader:
    """Draws updates from a set of texts and, where there is one, a set of answers."""

    def __init__(
        self, texts: PackedRows, answers: PackedRows | None, *, micro_rows: int, seed: int
    ) -> None:
        self._texts = texts
        self._answers = answers
        self._micro_rows = micro_rows
        self._text_order = RowOrder(texts.spans, seed)
        self._answer_order = RowOrder(answers.spans if answers else [], seed + 1)

    def read(self, at: Positions, *, num_rows: int, num_answers: int) -> Batch:
        """The update of `num_rows` at a position, `num_answers` of them answers."""
        columns: list[tuple[Tensor, Tensor]] = []
        if num_answers and self._answers:
            columns.append(self._answers.batch(self._answer_order.rows(at.answers, num_answers)))
        else:
            num_answers = 0
        num_texts = num_rows - num_answers
        if num_texts:
            columns.append(self._texts.batch(self._text_order.rows(at.texts, num_texts)))
        ids, targets = (torch.cat(column) for column in zip(*columns, strict=True))
        size = self._micro_rows
        return Batch(
            list(zip(ids.split(size), targets.split(size), strict=True)),
            Positions(at.texts + num_texts, at.answers + num_answers),
        )
