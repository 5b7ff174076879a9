"""What a device and the hub say to each other in one round, as plain values.

A device sends its new versions and what it knows; the hub answers with what the device lacks. A
round that is lost or repeated changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autoglm.sync.version import Dot, Version


@dataclass(frozen=True, slots=True)
class Push:
    """All live versions of the sender with counters above the request's `acked`, up to `upto`.

    `batch` is chosen at random before the first attempt, so that the hub can tell a repeated push
    from one by a device that was restored from a backup and counts from the same place again.
    """

    batch: int
    upto: int
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A device's half of a round.

    `actor` 0 asks for a number; `enrolment` makes that repeatable. `acked` is the counter the hub
    confirmed last, `wanted` names versions that known ones are built on.
    """

    round: int
    actor: int
    enrolment: int
    epoch: int
    acked: int
    vector: dict[int, int]
    push: Push | None = None
    wanted: tuple[Dot, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """The hub's half: `versions` bring the device to `vector`; `more` asks for another round.

    `is_forked` tells the device to take a new number: its own is ahead of it at the hub. `epoch`
    above the device's tells it to read everything anew, because tombstones it never saw are gone.
    `inline` names pushed versions whose base is gone: they must come with it. Nothing of the push
    is accepted then.
    """

    round: int
    actor: int
    acked: int = 0
    epoch: int = 0
    vector: dict[int, int] = field(default_factory=dict)
    versions: tuple[Version, ...] = ()
    more: bool = False
    is_forked: bool = False
    inline: tuple[Dot, ...] = ()
