"""One run's results, saved after every turn, so that a run can be cut off, resumed and extended.

A resumed run measures only what its file lacks: turns of rounds that are not in it, or rows that
were not asked for before.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.engines import OWN_NAMES, Engine
from peers.rows import is_close
from peers.turn import PeerError
from peers.workload import MEMORY_SECOND, Sample, TurnTaker, Workload


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write all of a result file, or leave the old one."""
    part = path.with_suffix(".part")
    text = json.dumps(document, indent=1, ensure_ascii=False)
    part.write_text(f"{text}\n", encoding="utf-8")
    part.replace(path)


class OutOfTimeError(Exception):
    """The time given to the run is over."""


def say(text: str) -> None:
    """Progress goes to standard error; the table is the output."""
    print(f"bench-peers: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@dataclass(slots=True, kw_only=True)
class Part:
    """One model under one limit: our engine, the others, and what is asked of each."""

    label: str
    own: Engine
    others: Sequence[Engine]
    work: Workload


@dataclass(slots=True, kw_only=True)
class Campaign:
    """The samples so far, where they are saved, and when to stop."""

    path: Path
    head: dict[str, Any]
    row_names: Sequence[str] = ()
    attempts: int = 4
    deadline: float = float("inf")
    samples: list[Sample] = field(default_factory=list)
    _broken: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Campaign:
        """That of a result file."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        samples = [Sample(**sample) for sample in saved.pop("samples")]
        return cls(path=path, head=saved, samples=samples)

    @property
    def document(self) -> dict[str, Any]:
        """All of the result file."""
        return {**self.head, "samples": [asdict(sample) for sample in self.samples]}

    def save(self) -> None:
        """Write what there is."""
        write_document(self.path, self.document)

    def add(self, samples: Iterable[Sample]) -> None:
        """Keep and save."""
        self.samples += samples
        self.save()

    def forget(self, engines: AbstractSet[tuple[str, str]]) -> None:
        """Drop the wanted rows of engines, named with their models, to measure them anew."""
        self.samples = [
            sample
            for sample in self.samples
            if (sample.engine, sample.model) not in engines or not self.is_wanted(sample.row)
        ]

    def is_wanted(self, row: str) -> bool:
        """Whether a row is among those asked for."""
        return is_named(row, self.row_names)

    def lacks(self, engine: str, label: str, row: str, number: int = 0) -> bool:
        """Whether a wanted row has no sample of this round."""
        key = (engine, label, row, number)
        return self.is_wanted(row) and not any(
            (s.engine, s.model, s.row, s.round) == key for s in self.samples
        )

    def check_time(self) -> None:
        """Raises OutOfTimeError after the deadline."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError

    def measure_round(self, part: Part, number: int) -> None:
        """Ours, a peer, ours, the next peer, ...; a pair that the file has is left out."""
        for other in self._contenders(part, number):
            wanted = self._missing(part, other, number, may_pair=number == 0)
            if not wanted:
                continue
            self.check_time()
            may_pair = number == 0 and self.lacks(part.own.name, part.label, MEMORY_SECOND)
            rows = part.work.rows(part.own, may_pair=may_pair)
            own = self._turn(part, part.own, number, {row for row in rows if self.is_wanted(row)})
            try:
                self.add([*own, *self._turn(part, other, number, wanted)])
            except PeerError as err:
                say(f"{part.label}: left out: {err}")
                self._broken.add((part.label, other.name))

    def _turn(self, part: Part, engine: Engine, number: int, wanted: set[str]) -> list[Sample]:
        say(f"{part.label}, round {number + 1}: {engine.name}")
        taker = TurnTaker(
            engine=engine,
            model=part.label,
            number=number,
            work=part.work,
            attempts=self.attempts,
            wanted=wanted,
        )
        return taker.take()

    def _missing(self, part: Part, engine: Engine, number: int, *, may_pair: bool) -> set[str]:
        rows = part.work.rows(engine, may_pair=may_pair)
        return {row for row in rows if self.lacks(engine.name, part.label, row, number)}

    def _contenders(self, part: Part, number: int) -> Iterator[Engine]:
        """Whom to measure on: all at first, then those that may be the best in a row."""
        of_model = [sample for sample in self.samples if sample.model == part.label]
        for engine in part.others:
            if (part.label, engine.name) in self._broken:
                continue
            if number == 0 or engine.name in OWN_NAMES or is_close(engine.name, of_model):
                yield engine


def is_named(name: str, parts: Sequence[str]) -> bool:
    """Whether one of the parts is in the name; no parts stand for all."""
    return not parts or any(part.lower() in name.lower() for part in parts)
