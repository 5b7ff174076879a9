# mypy: allow-subclassing-any
# torch is not installed where the gates run, so its classes are Any to mypy.
"""Fits the network that points at answers: dilated convolutions over the clues of every token."""

from __future__ import annotations

import copy
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from autoglm.lite.reader.clues import clues, question_places, token_places, tokenize
from autoglm.lite.reader.weights import TermTable
from autoglm.lite.reader_training import questions
from autoglm.lite.reader_training.questions import Question
from autoglm.lite.reader_training.tables import Arrays
from autoglm.lite.sources import Lang

_WIDTH, _EMBEDDING, _TABLE = 48, 24, 2**13
_DILATIONS = (1, 2, 4, 8)
_MOST_TOKENS = 900
_EPOCHS = {"zh": 5, "en": 3}
# English networks that go on from the Chinese one: share of Chinese questions, rate, epochs.
_CONTINUED = ((0.3, 2e-3, 2),)
_WINDOW = 240  # tokens of a text that an epoch reads
_ROWS, _RATE, _DECAY, _DROP = 16, 2e-3, 1e-3, 0.15
_DROP_TOKENS = 0.1
_MISSING = 0.25
_LIMIT = 5.0
_OFF = -1e4


@dataclass(frozen=True, slots=True)
class Example:
    """A question over tokens; the span is (-1, -1) when the answer is not there."""

    features: npt.NDArray[np.float16]
    tokens: npt.NDArray[np.int64]
    question: npt.NDArray[np.int64]
    first: int
    last: int


class Pointer(nn.Module):
    """Scores of every token as the first and the last of the answer, and of there being none."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.token = nn.Embedding(_TABLE, _EMBEDDING)
        self.asked = nn.EmbeddingBag(_TABLE, _EMBEDDING, mode="mean")
        nn.init.normal_(self.token.weight, std=0.1)
        nn.init.normal_(self.asked.weight, std=0.1)
        self.into = nn.Linear(num_features + 2 * _EMBEDDING, _WIDTH)
        self.layers = nn.ModuleList(
            nn.Conv1d(_WIDTH, _WIDTH, 3, dilation=step, padding=step) for step in _DILATIONS
        )
        self.ends = nn.Linear(_WIDTH, 2)
        self.none = nn.Linear(_WIDTH, 2)
        self.drop = nn.Dropout(_DROP)

    def forward(
        self,
        features: torch.Tensor,
        tokens: torch.Tensor,
        asked: torch.Tensor,
        offsets: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """[rows, 2, num_tokens + 1], the last column for no answer."""
        about = self.asked(asked, offsets)[:, None].expand(-1, features.shape[1], -1)
        embedded = self.token(tokens)
        if self.training:
            kept = (torch.rand(tokens.shape) > _DROP_TOKENS).float()
            embedded = embedded * kept[..., None]
        state = torch.relu(self.into(torch.cat([features, embedded, about], -1)))
        state = state.transpose(1, 2) * mask[:, None]
        for layer in self.layers:
            state = (state + torch.relu(layer(self.drop(state)))) * mask[:, None]
        scores = self.ends(state.transpose(1, 2)).transpose(1, 2) + _OFF * (1 - mask[:, None])
        none = self.none((state + _OFF * (1 - mask[:, None])).amax(2))[..., None]
        return torch.cat([scores, none], 2)


def example(item: Question, rarity: TermTable) -> Example | None:
    """The question as numbers; None when its text is too long."""
    tokens = tokenize(item.text)
    if not 4 <= len(tokens) <= _MOST_TOKENS:
        return None
    first = last = -1
    if item.start is not None:
        end = item.start + len(item.answer.rstrip("。.， ,"))
        first = int(np.searchsorted(tokens.starts, item.start))
        last = int(np.searchsorted(tokens.ends, end, side="left"))
        if not first <= last < len(tokens):
            return None
    return Example(
        clues(tokens, item.question, rarity).astype(np.float16),
        token_places(tokens, _TABLE),
        question_places(item.question, _TABLE),
        first,
        last,
    )


def _cropped(found: Example, rng: random.Random) -> Example:
    """A window of the tokens that holds the answer, another in every epoch."""
    spare = len(found.tokens) - _WINDOW
    if spare <= 0:
        return found
    low, high = (0, spare) if found.first < 0 else (found.last - _WINDOW + 1, found.first)
    start = rng.randint(max(0, min(low, spare)), max(0, min(high, spare)))
    part = slice(start, start + max(_WINDOW, found.last + 1 - start))
    shift = start if found.first >= 0 else 0
    return Example(
        found.features[part],
        found.tokens[part],
        found.question,
        found.first - shift,
        found.last - shift,
    )


class Scaler:
    """Standardises features as the reader does."""

    def __init__(self, examples: Sequence[Example]) -> None:
        rows = np.concatenate([found.features for found in examples[:3000]]).astype(np.float32)
        self.mean, self.spread = rows.mean(0), rows.std(0) + 1e-2

    def batch(self, rows: Sequence[Example]) -> tuple[torch.Tensor, ...]:
        """Features, tokens, questions with offsets, and the mask, padded."""
        longest = max(len(row.tokens) for row in rows)
        features = np.zeros((len(rows), longest, len(self.mean)), dtype=np.float32)
        tokens = np.zeros((len(rows), longest), dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.float32)
        for index, row in enumerate(rows):
            size = len(row.tokens)
            plain = (row.features.astype(np.float32) - self.mean) / self.spread
            features[index, :size] = np.clip(plain, -_LIMIT, _LIMIT)
            tokens[index, :size] = row.tokens
            mask[index, :size] = 1.0
        sizes = [0, *np.cumsum([len(row.question) for row in rows])[:-1].tolist()]
        asked = np.concatenate([row.question for row in rows])
        return (
            torch.from_numpy(features),
            torch.from_numpy(tokens),
            torch.from_numpy(asked),
            torch.tensor(sizes),
            torch.from_numpy(mask),
        )


def load(data_dir: Path, lang: Lang, rarity: TermTable, seed: int) -> list[Example]:
    """All examples of a language, in the data's order."""
    rng = random.Random(seed)
    items = (
        questions.chinese(data_dir, rng, _MISSING)
        if lang == "zh"
        else questions.english(data_dir, rarity, rng, _MISSING)
    )
    found = (example(item, rarity) for item in items)
    return [item for item in found if item is not None]


def fit(
    examples: Sequence[Example],
    epochs: int,
    seed: int,
    *,
    rate: float = _RATE,
    start: tuple[Pointer, Scaler] | None = None,
) -> tuple[Pointer, Scaler]:
    """AdamW with a linear decay over batches of texts of like length, from `start` if given."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    if start is None:
        net, scaler = Pointer(examples[0].features.shape[1]), Scaler(examples)
    else:
        net, scaler = copy.deepcopy(start[0]), start[1]
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=_DECAY)
    order = sorted(range(len(examples)), key=lambda i: (min(_WINDOW, len(examples[i].tokens)), i))
    batches = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        rng.shuffle(batches)
        net.train()
        for number, chosen in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - (epoch + number / len(batches)) / epochs)
            rows = [_cropped(examples[index], rng) for index in chosen]
            inputs = scaler.batch(rows)
            scores = net(*inputs)
            none = scores.shape[2] - 1
            wanted = [[row.first, row.last] if row.first >= 0 else [none, none] for row in rows]
            loss = nn.functional.cross_entropy(
                scores.reshape(-1, none + 1), torch.tensor(wanted).reshape(-1)
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            total += float(loss.detach())
        seconds = time.perf_counter() - started
        sys.stderr.write(f"epoch {epoch + 1}: loss {total / len(batches):.3f}, {seconds:.0f} s\n")
    net.eval()
    return net, scaler


def tensors(net: Pointer, scaler: Scaler, name: str) -> Arrays:
    """The network as the reader reads it; embeddings in 8 bits a column."""
    found: Arrays = {f"{name}.mean": scaler.mean, f"{name}.spread": scaler.spread}
    for part, table in (("token", net.token), ("asked", net.asked)):
        values = table.weight.detach().numpy()
        step = np.abs(values).max(0) / 127 + 1e-9
        found[f"{name}.{part}"] = np.round(values / step).astype(np.int8)
        found[f"{name}.{part}.step"] = step.astype(np.float32)
    for part, layer in (("into", net.into), ("ends", net.ends), ("none", net.none)):
        found[f"{name}.{part}.weight"] = layer.weight.detach().numpy()
        found[f"{name}.{part}.bias"] = layer.bias.detach().numpy()
    for index, layer in enumerate(net.layers):
        found[f"{name}.{index}.weight"] = layer.weight.detach().numpy()  # [out, in, 3]
        found[f"{name}.{index}.bias"] = layer.bias.detach().numpy()
    found[f"{name}.steps"] = np.array(_DILATIONS, dtype=np.float32)
    return found


def train(data_dir: Path, rarity: TermTable, seed: int) -> Arrays:
    """One Chinese network, and English ones whose mean counts: alone, and from the Chinese one."""
    chinese, english = (load(data_dir, lang, rarity, seed) for lang in ("zh", "en"))
    first = fit(chinese, _EPOCHS["zh"], seed)
    found = tensors(*first, "answer.zh.0")
    found |= tensors(*fit(english, _EPOCHS["en"], seed), "answer.en.0")
    for number, (share, rate, epochs) in enumerate(_CONTINUED, 1):
        few = random.Random(seed + number).sample(chinese, int(share * len(chinese)))
        net, scaler = fit(english + few, epochs, seed + number, rate=rate, start=first)
        found |= tensors(net, scaler, f"answer.en.{number}")
    return found
