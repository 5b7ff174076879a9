"""Mix texts and instruction examples into rows of token ids, with a data card.

Run as `python -m autoglm.lite.pack --data DIR --tokenizer FILE --out DIR --rows N`. Writes
`tokens_*.bin` (uint16 rows, at most 60 MiB a file), `mask_*.bin` (uint8, 1 where the loss counts)
and `card.json` (tokens per source and licence).
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from autoglm.lite import passages, synthetic, tasks
from autoglm.lite.datasets import READERS
from autoglm.lite.salience import Salience
from autoglm.lite.sources import RECORD_FILES, TEXT_SOURCES, TextSource, sample_pieces
from autoglm.lite.tasks import Example
from autoglm.lite.tokenizer import ASSISTANT, END, MASK, SOP, SPECIALS, USER, token_id
from autoglm.lite.transcripts import Turn, chunks, parse_turns, rename

_MAX_FILE_BYTES = 60 * 2**20
_CHARS_PER_TOKEN = {"zh": 1.6, "en": 3.5}
_MAX_REPEATS = 4
_RENAMED_SHARE = 0.6
_MEETING_PATIENCE = 40


@dataclass(frozen=True, slots=True)
class Mix:
    """What the rows are made of; shares are of tokens, roughly."""

    rows: int
    row_tokens: int
    text_rows: float
    repeat_rows: float
    record_share: float
    synthetic_share: float
    passage_share: float
    zh_share: float
    answer_loss: bool
    held_out: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one example; the loss may be limited to the ids from `answer_start` on."""

    source: str
    ids: list[int]
    answer_start: int


class Encoder:
    """Turns examples and texts into ids in the chat form of the tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()
        self.end = token_id(tokenizer, END)
        self._open = [token_id(tokenizer, token) for token in (MASK, SOP, USER)]
        self._answer = [token_id(tokenizer, ASSISTANT)]

    def examples(self, batch: list[Example]) -> list[Encoded]:
        """Encode many exchanges at once."""
        users = self._tokenizer.encode_batch(["\n" + e.user_message for e in batch])
        answers = self._tokenizer.encode_batch(["\n" + e.answer for e in batch])
        result = []
        for example, user, answer in zip(batch, users, answers, strict=True):
            head = self._open + user.ids + self._answer
            newline = 1  # the newline after the role belongs to the prompt
            result.append(
                Encoded(example.source, head + answer.ids + [self.end], len(head) + newline)
            )
        return result

    def text(self, pieces: list[str]) -> list[list[int]]:
        """Encode plain texts, each ended by the end token."""
        return [[*item.ids, self.end] for item in self._tokenizer.encode_batch(pieces)]


def _meeting_examples(
    pieces: list[str], source: TextSource, row_tokens: int, rng: random.Random
) -> Iterator[Example]:
    parsed = [parse_turns(piece, source.lang) for piece in pieces]
    longest = int(row_tokens * 0.66 * _CHARS_PER_TOKEN[source.lang])
    runs: list[list[Turn]] = []
    for turns in parsed:
        runs += chunks(turns, rng.randint(longest // 4, longest))
    salience = Salience(
        ("\n".join(turn.text for turn in run) for run in islice(runs, 4000)), source.lang
    )
    rng.shuffle(runs)
    for run in runs:
        if rng.random() < _RENAMED_SHARE:
            run = rename(run, source.lang, rng)
        example = tasks.build(run, salience, rng)
        if example:
            yield example


def _record_examples(data_dir: Path, mix: Mix, rng: random.Random) -> Iterator[Example]:
    """Endless draw from the record sets by weight, each example at most a few times."""
    max_chars = int(mix.row_tokens * 0.68 * _CHARS_PER_TOKEN["en"])
    pools: list[list[Example]] = []
    for reader, _ in READERS:
        pool = list(reader(data_dir, max_chars, rng))
        rng.shuffle(pool)
        pools.append(pool)
    weights = [weight for _, weight in READERS]
    drawn = [0] * len(pools)
    while any(weights):
        index = rng.choices(range(len(pools)), weights)[0]
        yield pools[index][drawn[index] % len(pools[index])]
        drawn[index] += 1
        if drawn[index] >= _MAX_REPEATS * len(pools[index]):
            weights[index] = 0.0


def _take(
    examples: Iterable[Example], encoder: Encoder, num_tokens: int, max_ids: int
) -> list[Encoded]:
    taken: list[Encoded] = []
    total = 0
    stream = iter(examples)
    while total < num_tokens:
        batch = list(islice(stream, 512))
        if not batch:
            break
        # A quarter with a single line feed, so that either form of the request works.
        batch[::4] = [replace(example, separator="\n") for example in batch[::4]]
        fitting = [item for item in encoder.examples(batch) if len(item.ids) <= max_ids]
        if not fitting:  # rows too short for this source, which may be endless
            break
        taken += fitting
        total += sum(len(item.ids) for item in fitting)
    return taken


def collect_examples(data_dir: Path, mix: Mix, encoder: Encoder) -> list[Encoded]:
    """All instruction examples of the mix, shuffled."""
    rng = random.Random(mix.seed)
    budget = int(mix.rows * (1 - mix.text_rows - mix.repeat_rows) * mix.row_tokens)
    records = int(budget * mix.record_share)
    found = _take(_record_examples(data_dir, mix, rng), encoder, records, mix.row_tokens)
    for source in TEXT_SOURCES:
        if not source.is_meeting:
            continue
        share = mix.zh_share if source.lang == "zh" else 1 - mix.zh_share
        invented = int(budget * mix.synthetic_share * share)
        found += _take(synthetic.examples(source.lang, rng), encoder, invented, mix.row_tokens)
        rest = 1 - mix.record_share - mix.synthetic_share - mix.passage_share
        wanted = int(budget * rest * share)
        pieces = sample_pieces(
            data_dir,
            source,
            int(wanted * _CHARS_PER_TOKEN[source.lang] * 1.5),
            rng,
            held_out=mix.held_out,
        )
        made = _meeting_examples(pieces, source, mix.row_tokens, rng)
        named = (replace(e, source=f"{source.name}/{e.source}") for e in made)
        found += _take(named, encoder, wanted, mix.row_tokens)
    found += _passage_examples(data_dir, mix, encoder, int(budget * mix.passage_share), rng)
    rng.shuffle(found)
    return found


def _passage_examples(
    data_dir: Path, mix: Mix, encoder: Encoder, budget: int, rng: random.Random
) -> list[Encoded]:
    """Titles, rewriting, cloze and facts over every corpus, by its weight."""
    found: list[Encoded] = []
    total = sum(source.weight for source in TEXT_SOURCES)
    for source in TEXT_SOURCES:
        wanted = int(budget * source.weight / total)
        per_token = _CHARS_PER_TOKEN[source.lang]
        # Many passages have no task in them: read four times what is wanted.
        pieces = sample_pieces(
            data_dir, source, int(4 * wanted * per_token), rng, held_out=mix.held_out
        )
        longest = int(mix.row_tokens * 0.6 * per_token)
        made = passages.examples(pieces, source.lang, longest, rng)
        named = (replace(e, source=f"{source.name}/{e.source}") for e in made)
        found += _take(named, encoder, wanted, mix.row_tokens)
    return found


def collect_texts(data_dir: Path, mix: Mix, encoder: Encoder) -> list[tuple[str, list[int]]]:
    """Plain-text pieces by source weight, shuffled; enough for the text rows and the gaps."""
    rng = random.Random(mix.seed + 1)
    budget = mix.rows * mix.row_tokens * min(1.0, mix.text_rows + 0.2)
    total = sum(source.weight for source in TEXT_SOURCES)
    found: list[tuple[str, list[int]]] = []
    for source in TEXT_SOURCES:
        wanted = int(budget * source.weight / total * _CHARS_PER_TOKEN[source.lang])
        pieces = sample_pieces(data_dir, source, wanted, rng, held_out=mix.held_out)
        found += [(source.name, ids) for ids in encoder.text(pieces)]
    rng.shuffle(found)
    return found


class RowWriter:
    """Builds rows one by one and counts tokens per source."""

    def __init__(self, mix: Mix, end: int, texts: list[tuple[str, list[int]]]) -> None:
        self._mix = mix
        self._end = end
        self._texts = iter(texts)
        self._name = ""
        self._rest: list[int] = []
        self.tokens = np.full((mix.rows, mix.row_tokens), end, dtype=np.uint16)
        self.mask = np.zeros((mix.rows, mix.row_tokens), dtype=np.uint8)
        self.counts: Counter[str] = Counter()

    def add_examples(self, row: int, waiting: list[Encoded]) -> int:
        """Put waiting examples, best fit first, into a row; returns the columns used."""
        column = 0
        while waiting:
            room = self._mix.row_tokens - column
            fits = [
                i for i, item in enumerate(waiting[-_MEETING_PATIENCE:]) if len(item.ids) <= room
            ]
            if not fits:
                break
            offset = max(0, len(waiting) - _MEETING_PATIENCE)
            item = waiting.pop(offset + fits[-1])
            stop = column + len(item.ids)
            self.tokens[row, column:stop] = item.ids
            counted_from = column + item.answer_start if self._mix.answer_loss else column
            self.mask[row, counted_from:stop] = 1
            self.counts[item.source] += len(item.ids)
            column = stop
        return column

    def add_repeats(self, row: int, vocab_size: int, rng: random.Random) -> None:
        """A row of random ids repeated over and over: only copying predicts it.

        Copying from the context is what every task here rests on, and such rows teach it sooner.
        """
        period = rng.randint(8, self._mix.row_tokens // 3)
        segment = [rng.randrange(len(SPECIALS), vocab_size) for _ in range(period)]
        repeated = segment * (self._mix.row_tokens // period + 1)
        self.tokens[row] = repeated[: self._mix.row_tokens]
        self.mask[row, period:] = 1
        self.counts["repeats"] += self._mix.row_tokens

    def add_text(self, row: int, column: int) -> None:
        """Fill the rest of a row with running text."""
        while column < self._mix.row_tokens:
            if not self._rest:
                self._name, self._rest = next(self._texts, ("", []))
                if not self._rest:
                    return
            taken = self._rest[: self._mix.row_tokens - column]
            self._rest = self._rest[len(taken) :]
            self.tokens[row, column : column + len(taken)] = taken
            self.mask[row, column : column + len(taken)] = 1
            self.counts[self._name] += len(taken)
            column += len(taken)


def fill_rows(
    mix: Mix, encoder: Encoder, examples: list[Encoded], texts: list[tuple[str, list[int]]]
) -> RowWriter:
    """All rows in their final, random order."""
    rng = random.Random(mix.seed + 2)
    writer = RowWriter(mix, encoder.end, texts)
    for row in range(mix.rows):
        kind = rng.random()
        if kind < mix.repeat_rows:
            writer.add_repeats(row, encoder.vocab_size, rng)
            continue
        is_text = kind < mix.repeat_rows + mix.text_rows
        column = 0 if is_text else writer.add_examples(row, examples)
        if column == 0 or not mix.answer_loss:
            writer.add_text(row, column)
    return writer


def save(out: Path, writer: RowWriter, mix: Mix) -> None:
    """Write the token files, the masks and the card."""
    out.mkdir(parents=True, exist_ok=True)
    rows_per_file = _MAX_FILE_BYTES // (2 * mix.row_tokens)
    parts: list[tuple[str, npt.NDArray[np.generic]]] = [
        ("tokens", writer.tokens),
        ("mask", writer.mask),
    ]
    for kind, array in parts:
        for index, start in enumerate(range(0, mix.rows, rows_per_file)):
            array[start : start + rows_per_file].tofile(out / f"{kind}_{index:03d}.bin")
    licences: dict[str, tuple[str, str]] = {
        source.name: (source.licence, source.terms) for source in TEXT_SOURCES
    }
    licences["repeats"] = ("own", "random token ids")
    licences |= {f"synthetic_{lang}": ("own", "written for this model") for lang in ("zh", "en")}
    licences |= {name: (licence, terms) for name, (_, licence, terms) in RECORD_FILES.items()}
    card = {
        "rows": mix.rows,
        "row_tokens": mix.row_tokens,
        "seed": mix.seed,
        "loss_tokens": int(writer.mask.sum()),
        "sources": [
            {"name": name, "tokens": count, "licence": licences[name.split("/")[0]]}
            for name, count in writer.counts.most_common()
        ],
    }
    (out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--row-tokens", type=int, default=512)
    parser.add_argument("--text-rows", type=float, default=0.35, help="share of plain-text rows")
    parser.add_argument("--repeat-rows", type=float, default=0.0, help="share of copying drills")
    parser.add_argument("--record-share", type=float, default=0.3)
    parser.add_argument("--synthetic-share", type=float, default=0.15)
    parser.add_argument("--passage-share", type=float, default=0.2)
    parser.add_argument("--zh-share", type=float, default=0.65, help="of the meeting examples")
    parser.add_argument("--held-out", action="store_true", help="only the held-out documents")
    parser.add_argument("--answer-loss", action="store_true", help="loss on answers only")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    mix = Mix(
        args.rows,
        args.row_tokens,
        args.text_rows,
        args.repeat_rows,
        args.record_share,
        args.synthetic_share,
        args.passage_share,
        args.zh_share,
        args.answer_loss,
        args.held_out,
        args.seed,
    )
    encoder = Encoder(Tokenizer.from_file(str(args.tokenizer)))
    examples = collect_examples(args.data, mix, encoder)
    texts = collect_texts(args.data, mix, encoder)
    save(args.out, fill_rows(mix, encoder, examples, texts), mix)


if __name__ == "__main__":
    main()
