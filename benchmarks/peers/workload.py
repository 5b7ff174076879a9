"""What one turn of an engine measures, as samples by row."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from peers.engines import Engine
from peers.turn import Timing, Turn, quietest

PREFILL, PREFILL_LONG = "prefill 512", "prefill 2048"
ROWS, ROWS_SPEED = "8 rows against 1", "8 rows at once"
FIRST_TOKEN = "exec to first token"
MEMORY_FIRST, MEMORY_PEAK = "RSS at first token", "peak RSS"
MEMORY_SECOND = "second process adds"
SHORT, LONG, DEEP = 512, 2048, 4096
DECODE_DEPTHS = (0, SHORT, LONG, DEEP)
NUM_ROWS = 8
# A decode speed is measured over so long, so that clock ticks and slow engines both fit.
DECODE_SECONDS, MIN_DECODED, TRIAL_TOKENS = 1.5, 16, 8


def decode_at(depth: int) -> str:
    """The row of decode speed with so many tokens in the cache."""
    return f"decode @{depth}"


DECODE, DECODE_DEEP = decode_at(0), decode_at(DEEP)
START_ROWS = frozenset({FIRST_TOKEN, MEMORY_FIRST})
SHORT_ROWS = frozenset({PREFILL, DECODE})
ROWS_ROWS = frozenset({ROWS, ROWS_SPEED})
DEPTH_ROWS = frozenset({decode_at(SHORT), PREFILL_LONG, decode_at(LONG), DECODE_DEEP, MEMORY_PEAK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One value of one row; `other_cpus` is None where nothing was timed."""

    engine: str
    model: str
    row: str
    round: int
    value: float
    other_cpus: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Repetitions that make every timing long enough to judge the machine by."""

    short_repeats: int
    long_repeats: int
    decode_tokens: int
    rows_repeats: int
    has_depth: bool = True

    def rows(self, engine: Engine, *, may_pair: bool) -> frozenset[str]:
        """All that a turn can measure; `may_pair` starts a second process for its memory."""
        found = START_ROWS | SHORT_ROWS | {MEMORY_PEAK}
        found |= {MEMORY_SECOND} if may_pair else set()
        found |= ROWS_ROWS if engine.has_rows else set()
        return found | DEPTH_ROWS if self.has_depth else found


# Two long prompts at least: the first of a length is slower in engines that compile for it.
LARGE_WORK = Workload(short_repeats=3, long_repeats=2, decode_tokens=64, rows_repeats=8)
SMALL_WORK = Workload(short_repeats=12, long_repeats=4, decode_tokens=512, rows_repeats=100)
LIMITED_WORK = Workload(
    short_repeats=2, long_repeats=2, decode_tokens=48, rows_repeats=4, has_depth=False
)


def start_quietly(engine: Engine, attempts: int) -> Turn:
    """A turn whose first token came while the machine was quiet, if a few tries find one."""
    for _ in range(attempts - 1):
        turn = Turn(engine)
        if turn.first_token.is_quiet:
            return turn
        turn.close()
    return Turn(engine)


@dataclass(slots=True, kw_only=True)
class TurnTaker:
    """The rows `wanted` of one engine in one process."""

    engine: Engine
    model: str
    number: int
    work: Workload
    attempts: int
    wanted: AbstractSet[str]
    samples: list[Sample] = field(default_factory=list)

    def take(self) -> list[Sample]:
        """Start the engine, measure, end it."""
        with start_quietly(self.engine, self.attempts) as turn:
            self._keep(FIRST_TOKEN, turn.first_token.seconds[0], turn.first_token.other_cpus)
            self._keep(MEMORY_FIRST, turn.memory().peak_mib, None)
            if MEMORY_SECOND in self.wanted:
                with Turn(self.engine) as second:
                    self._keep(MEMORY_SECOND, second.memory().private_mib, None)
            self._short(turn)
            if self.wanted & ROWS_ROWS:
                self._rows(turn)
            if self.work.has_depth and self.wanted & DEPTH_ROWS:
                self._deep(turn)
            self._keep(MEMORY_PEAK, turn.memory().peak_mib, None)
        return self.samples

    def _short(self, turn: Turn) -> None:
        """Up to 512 tokens."""
        if self.wanted & {PREFILL, decode_at(SHORT)}:
            self._prefill(turn, PREFILL, SHORT, self.work.short_repeats)
            self._decode(turn, decode_at(SHORT))
        if DECODE in self.wanted:
            turn.ask("prefill 1")
            self._decode(turn, DECODE)

    def _deep(self, turn: Turn) -> None:
        """Up to 4096 tokens, one row after another in one cache."""
        self._prefill(turn, PREFILL_LONG, LONG, self.work.long_repeats)
        self._decode(turn, decode_at(LONG))
        if self.wanted & {DECODE_DEEP, MEMORY_PEAK}:
            turn.ask(f"extend {DEEP - LONG}")
        self._decode(turn, DECODE_DEEP)

    def _prefill(self, turn: Turn, row: str, length: int, repeats: int) -> None:
        """Once, if only the cache is needed."""
        if row in self.wanted:
            timing = turn.ask_quietly(f"prefill {length} {repeats}", self.attempts)
            self._keep(row, length / timing.best, timing.other_cpus)
        else:
            turn.ask(f"prefill {length}")

    def _decode(self, turn: Turn, row: str) -> None:
        """As many tokens as the engine writes in about the same time as the others."""
        if row not in self.wanted:
            return
        rate = TRIAL_TOKENS / turn.ask(f"decode {TRIAL_TOKENS}").best
        count = min(self.work.decode_tokens, max(MIN_DECODED, round(rate * DECODE_SECONDS)))
        timing = turn.ask_quietly(f"decode {count}", self.attempts)
        self._keep(row, count / timing.best, timing.other_cpus)

    def _rows(self, turn: Turn) -> None:
        """One row and several, one after the other."""
        repeats = self.work.rows_repeats

        def measure() -> Timing:
            one, many = turn.ask(f"rows 1 {repeats}"), turn.ask(f"rows {NUM_ROWS} {repeats}")
            others = max(one.other_cpus, many.other_cpus)
            return Timing((many.middle / one.middle, many.middle), others)

        timing = quietest(measure, self.attempts)
        ratio, seconds = timing.seconds
        self._keep(ROWS, ratio, timing.other_cpus)
        self._keep(ROWS_SPEED, NUM_ROWS / seconds, timing.other_cpus)

    def _keep(self, row: str, value: float, others: float | None) -> None:
        if row in self.wanted:
            sample = Sample(
                engine=self.engine.name,
                model=self.model,
                row=row,
                round=self.number,
                value=value,
                other_cpus=others,
            )
            self.samples.append(sample)
