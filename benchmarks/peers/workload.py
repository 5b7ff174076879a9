"""What one turn of an engine measures, as samples by row."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from peers.engines import Engine
from peers.turn import Timing, Turn, quietest

PREFILL, PREFILL_LONG = "prefill 512", "prefill 2048"
ROWS = "8 rows against 1"
FIRST_TOKEN = "exec to first token"
MEMORY_FIRST, MEMORY_PEAK = "RSS at first token", "peak RSS"
MEMORY_SECOND = "second process adds"
SHORT, LONG, DEEP = 512, 2048, 4096
DECODE_DEPTHS = (0, SHORT, LONG, DEEP)
NUM_ROWS = 8


def decode_at(depth: int) -> str:
    """The row of decode speed with so many tokens in the cache."""
    return f"decode @{depth}"


DECODE, DECODE_DEEP = decode_at(0), decode_at(DEEP)


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


LARGE_WORK = Workload(short_repeats=2, long_repeats=1, decode_tokens=48, rows_repeats=8)
SMALL_WORK = Workload(short_repeats=12, long_repeats=4, decode_tokens=512, rows_repeats=200)
LIMITED_WORK = Workload(
    short_repeats=1, long_repeats=1, decode_tokens=32, rows_repeats=4, has_depth=False
)


def start_quietly(engine: Engine, attempts: int) -> Turn:
    """A turn whose first token came while the machine was quiet, if a few tries find one."""
    for _ in range(attempts - 1):
        turn = Turn(engine)
        if turn.first_token.is_quiet:
            return turn
        turn.close()
    return Turn(engine)


def take_turn(
    engine: Engine, model: str, number: int, work: Workload, attempts: int, *, may_pair: bool
) -> list[Sample]:
    """Every row of one engine in one process; `may_pair` starts a second for its memory."""
    samples: list[Sample] = []

    def keep(row: str, value: float, others: float | None) -> None:
        samples.append(
            Sample(
                engine=engine.name,
                model=model,
                row=row,
                round=number,
                value=value,
                other_cpus=others,
            )
        )

    def speed(row: str, request: str, num_tokens: int) -> None:
        timing = turn.ask_quietly(request, attempts)
        keep(row, num_tokens / median(timing.seconds), timing.other_cpus)

    with start_quietly(engine, attempts) as turn:
        keep(FIRST_TOKEN, turn.first_token.seconds[0], turn.first_token.other_cpus)
        keep(MEMORY_FIRST, turn.memory().peak_mib, None)
        if may_pair:
            with Turn(engine) as second:
                keep(MEMORY_SECOND, second.memory().private_mib, None)
        speed(PREFILL, f"prefill {SHORT} {work.short_repeats}", SHORT)
        if work.has_depth:
            speed(decode_at(SHORT), f"decode {work.decode_tokens}", work.decode_tokens)
        turn.ask("prefill 1")
        speed(DECODE, f"decode {work.decode_tokens}", work.decode_tokens)
        if engine.has_rows:
            ratio = quietest(lambda: _rows(turn, work.rows_repeats), attempts)
            keep(ROWS, ratio.seconds[0], ratio.other_cpus)
        if work.has_depth:
            speed(PREFILL_LONG, f"prefill {LONG} {work.long_repeats}", LONG)
            speed(decode_at(LONG), f"decode {work.decode_tokens}", work.decode_tokens)
            turn.ask(f"extend {DEEP - LONG}")
            speed(DECODE_DEEP, f"decode {work.decode_tokens}", work.decode_tokens)
        keep(MEMORY_PEAK, turn.memory().peak_mib, None)
    return samples


def _rows(turn: Turn, repeats: int) -> Timing:
    """The time of 8 rows as a multiple of the time of one, measured one after the other."""
    one, many = turn.ask(f"rows 1 {repeats}"), turn.ask(f"rows {NUM_ROWS} {repeats}")
    ratio = median(many.seconds) / median(one.seconds)
    return Timing((ratio,), max(one.other_cpus, many.other_cpus))
