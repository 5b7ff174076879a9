"""Fits the intent classifier to CLINC150's training split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from autoglm.lite.reader.intents import grams
from autoglm.lite.reader.weights import hashes
from autoglm.lite.reader_training.tables import Arrays
from autoglm.lite.sources import read_records

_SIZE, _WIDTH = 2**15, 64
_EPOCHS, _ROWS, _RATE, _SCALE = 8, 256, 0.01, 8.0
_DROP_GRAMS, _DROP_STATE, _SMOOTHING = 0.3, 0.2, 0.1


def train(data_dir: Path, seed: int) -> Arrays:
    """The tensors of `IntentClassifier`."""
    torch.manual_seed(seed)
    records = list(read_records(data_dir, "clinc150"))
    names = sorted({record["intent"] for record in records})
    wanted = torch.tensor([names.index(record["intent"]) for record in records])
    places = [hashes(grams(record["text"]), _SIZE) for record in records]
    counts = np.bincount(np.concatenate([np.unique(found) for found in places]), minlength=_SIZE)
    rarity = np.log(len(places) / np.maximum(counts, 1)) * (counts > 0)
    weights = [rarity[found] / (np.linalg.norm(rarity[found]) + 1e-6) for found in places]
    table = torch.nn.EmbeddingBag(_SIZE, _WIDTH, mode="sum", sparse=True)
    torch.nn.init.normal_(table.weight, std=0.1)
    output = torch.nn.Linear(_WIDTH, len(names))
    sparse = torch.optim.SparseAdam(list(table.parameters()), lr=_RATE)
    dense = torch.optim.Adam(output.parameters(), lr=_RATE)
    steps = _EPOCHS * -(-len(places) // _ROWS)
    for step in range(steps):
        if step * _ROWS % len(places) < _ROWS:
            order = torch.randperm(len(places)).tolist()
        start = step * _ROWS % len(places)
        for group in sparse.param_groups + dense.param_groups:
            group["lr"] = _RATE * (1 - step / steps)
        rows = order[start : start + _ROWS]
        state = _states(table, [places[row] for row in rows], [weights[row] for row in rows])
        state = torch.nn.functional.dropout(state, _DROP_STATE)
        loss = torch.nn.functional.cross_entropy(
            output(state), wanted[rows], label_smoothing=_SMOOTHING
        )
        sparse.zero_grad()
        dense.zero_grad()
        loss.backward()
        sparse.step()
        dense.step()
    values = table.weight.detach().numpy() * _SCALE * (counts > 0)[:, None]
    width = np.abs(values).max(0) / 127 + 1e-9
    readable = [name.replace("_", " ") for name in names]
    return {
        "intent.embedding": np.round(values / width).astype(np.int8),
        "intent.embedding.step": width.astype(np.float32),
        "intent.rarity": rarity.astype(np.float32),
        "intent.weight": output.weight.detach().numpy(),
        "intent.bias": output.bias.detach().numpy(),
        "intent.names": np.frombuffer(json.dumps(readable).encode(), dtype=np.uint8),
    }


def _states(
    table: torch.nn.EmbeddingBag,
    places: list[np.ndarray[tuple[int], np.dtype[np.int64]]],
    weights: list[np.ndarray[tuple[int], np.dtype[np.float64]]],
) -> torch.Tensor:
    """Sums of embeddings by weight, some grams left out."""
    sizes = [len(found) for found in places]
    offsets = torch.tensor([0, *np.cumsum(sizes[:-1]).tolist()])
    flat = torch.from_numpy(np.concatenate(places))
    by = torch.from_numpy(np.concatenate(weights).astype(np.float32))
    by = torch.nn.functional.dropout(by, _DROP_GRAMS)
    found: torch.Tensor = _SCALE * table(flat, offsets, per_sample_weights=by)
    return found
