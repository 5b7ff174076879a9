"""Versions as columns of a protobuf message, and back. Bytes from outside are checked here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from autoglm.errors import SyncError
from autoglm.protocol.v1.sync_pb2 import Versions
from autoglm.sync.seal import SALT_BYTES, TAG_BYTES
from autoglm.sync.version import Dot, Version

MAX_VERSIONS = 20_000
MAX_CELL_BYTES = 64
MAX_NUMBER = 2**63


@dataclass(slots=True)
class Direction:
    """What both ends of one direction of a stream remember of its last message."""

    stamp: int = 0
    salt: bytes = b""


def malformed(what: str) -> SyncError:
    """The error for a message that no honest program sends."""
    return SyncError(f"a message is malformed: {what}")


def pairs(values: Sequence[int]) -> Iterator[Dot]:
    """Authors and counters, two by two."""
    if len(values) % 2:
        what = "an author without a counter"
        raise malformed(what)
    return zip(values[::2], values[1::2], strict=True)


def flat(dots: Iterable[Dot]) -> list[int]:
    """The numbers of authors and counters in a row."""
    return [number for dot in dots for number in dot]


def _trimmed(column: list[int]) -> list[int]:
    while column and not column[-1]:
        column.pop()
    return column


def _padded(column: Sequence[int], count: int, name: str) -> list[int]:
    if len(column) > count:
        what = f"{len(column)} {name} for {count} versions"
        raise malformed(what)
    return [*column, *[0] * (count - len(column))]


def encode_versions(versions: Sequence[Version], before: Dot, way: Direction) -> Versions:
    """The columns of sealed versions. `before` is the sender and its counter before the first."""
    out = Versions(cells=b"".join(version.cell for version in versions))
    actors, counters, stamps, contexts = [], [], [], []
    actor, counter = before
    for n, version in enumerate(versions):
        actors.append(version.dot[0] - actor)
        counters.append(version.dot[1] - (counter if version.dot[0] == actor else 0) - 1)
        actor, counter = version.dot
        stamps.append(version.stamp - way.stamp)
        way.stamp = version.stamp
        contexts += [len(version.context), *flat(version.context)]
        if version.is_tombstone:
            out.tombstones.append(n)
        if version.needs is not None:
            out.needs.extend((n, *version.needs))
    out.actors.extend(_trimmed(actors))
    out.counters.extend(_trimmed(counters))
    out.stamps.extend(_trimmed(stamps))
    out.contexts.extend(_trimmed(contexts))
    _encode_payloads(versions, out, way)
    return out


def _encode_payloads(versions: Sequence[Version], out: Versions, way: Direction) -> None:
    """The payloads, each once, their salts, and which versions share one."""
    payloads: list[bytes] = []
    shared: dict[bytes, int] = {}
    runs: list[list[int]] = []
    for version in versions:
        index = len(payloads)
        if version.is_shared:
            index = shared.setdefault(version.payload, index)
        if index == len(payloads):
            payloads.append(version.payload)
        kind = index + 1 if version.is_shared else 0
        if runs and runs[-1][1] == kind:
            runs[-1][0] += 1
        else:
            runs.append([1, kind])
    while runs and not runs[-1][1]:
        runs.pop()
    out.shared.extend(number for run in runs for number in run)
    salts: dict[bytes, int] = {}
    salt_of = [salts.setdefault(payload[:SALT_BYTES], len(salts)) for payload in payloads]
    out.sizes.extend(len(payload) - SALT_BYTES for payload in payloads[:-1])
    out.payloads = b"".join(payload[SALT_BYTES:] for payload in payloads)
    if list(salts) != [way.salt]:
        out.salts = b"".join(salts)
        out.salt_of.extend(_trimmed(salt_of))
        way.salt = payloads[-1][:SALT_BYTES] if payloads else way.salt


def decode_versions(message: Versions, before: Dot, way: Direction) -> tuple[Version, ...]:
    """The versions of a message. Raises SyncError."""
    payloads = list(_cut(message.payloads, message.sizes))
    salts = list(_salts(message, len(payloads), way))
    whole = [salt + payload for salt, payload in zip(salts, payloads, strict=True)]
    given = list(_given(message.shared, whole))
    count = len(given)
    size, rest = divmod(len(message.cells), count)
    if count > MAX_VERSIONS or rest or not 0 < size <= MAX_CELL_BYTES:
        what = f"{count} versions with {len(message.cells)} bytes of cells"
        raise malformed(what)
    actors = _padded(message.actors, count, "authors")
    counters = _padded(message.counters, count, "counters")
    stamps = _padded(message.stamps, count, "stamps")
    contexts = list(_contexts(message.contexts, count))
    needs = _needs(message.needs, count)
    tombstones = set(message.tombstones)
    versions = []
    actor, counter = before
    for n in range(count):
        counter = counters[n] + 1 + (0 if actors[n] else counter)
        actor += actors[n]
        way.stamp += stamps[n]
        if not all(0 < number < MAX_NUMBER for number in (actor, counter, way.stamp)):
            what = "a number out of range"
            raise malformed(what)
        versions.append(
            Version(
                (actor, counter),
                message.cells[n * size : (n + 1) * size],
                contexts[n],
                way.stamp,
                given[n][0],
                n in tombstones,
                needs.get(n),
                given[n][1],
            )
        )
    way.salt = salts[-1]
    return tuple(versions)


def _given(runs: Sequence[int], payloads: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each version's payload, and whether it shares it."""
    total, position = 0, 0
    for size, kind in pairs(runs):
        total += size
        end = position + size if kind == 0 else max(position, kind)
        # A new group's payload is the next one.
        if not 0 < total <= MAX_VERSIONS or kind > position + 1 or end > len(payloads):
            what = "versions without a payload"
            raise malformed(what)
        if kind == 0:
            yield from ((payload, False) for payload in payloads[position:end])
        else:
            yield from [(payloads[kind - 1], True)] * size
        position = end
    yield from ((payload, False) for payload in payloads[position:])


def _cut(payloads: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    position = 0
    for size in [*sizes, len(payloads) - sum(sizes)]:
        if size < TAG_BYTES:
            what = f"a sealed payload of {size} bytes"
            raise malformed(what)
        yield payloads[position : position + size]
        position += size


def _contexts(column: Sequence[int], count: int) -> Iterator[tuple[Dot, ...]]:
    position = 0
    for _ in range(count):
        size = column[position] if position < len(column) else 0
        end = position + 1 + 2 * size
        if size and end > len(column):
            what = "a context that ends early"
            raise malformed(what)
        dots = tuple(pairs(column[position + 1 : end]))
        if any(left[0] >= right[0] for left, right in itertools.pairwise(dots)):
            what = "a context out of order"
            raise malformed(what)
        if any(max(dot) >= MAX_NUMBER for dot in dots):
            what = "a number out of range"
            raise malformed(what)
        yield dots
        position = end
    if position < len(column):
        what = "more contexts than versions"
        raise malformed(what)


def _salts(message: Versions, count: int, way: Direction) -> Iterator[bytes]:
    salts = message.salts or way.salt
    positions = _padded(message.salt_of, count, "salts")
    if not salts or len(salts) % SALT_BYTES or max(positions) >= len(salts) // SALT_BYTES:
        what = "a payload without its salt"
        raise malformed(what)
    for position in positions:
        yield salts[position * SALT_BYTES : (position + 1) * SALT_BYTES]


def _needs(column: Sequence[int], count: int) -> dict[int, Dot]:
    is_known = all(n < count for n in column[::3])
    if len(column) % 3 or not is_known or max(column, default=0) >= MAX_NUMBER:
        what = "needs that name no version"
        raise malformed(what)
    return {
        n: (actor, counter)
        for n, actor, counter in zip(column[::3], column[1::3], column[2::3], strict=True)
    }
