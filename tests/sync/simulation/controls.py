"""Deliberate bugs, one at a time: the simulator must find each of them, or it proves nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from tests.sync.simulation.world import World

from autoglm.errors import SyncError
from autoglm.sync import device, hub, records, texts
from autoglm.sync.hub import MemoryHub, Verdict
from autoglm.sync.messages import Push, Request, Response
from autoglm.sync.version import Context, Dot, Version


class ForgetfulHub(MemoryHub):
    """Removes tombstones, and tells nobody."""

    def collect(self, before_ms: int) -> None:
        """Keep what is known of everybody."""
        known = {actor: (row.epoch, row.vector) for actor, row in self.actors.items()}
        super().collect(before_ms)
        for actor, row in self.actors.items():
            row.epoch, row.vector = known[actor]


class HalfHub(MemoryHub):
    """Confirms a push and stores all of it but the last version."""

    def _accept(self, row: hub.ActorRow, push: Push, now_ms: int) -> None:
        super()._accept(row, replace(push, versions=push.versions[:-1]), now_ms)


class BoastfulHub(MemoryHub):
    """Says with the first page that the device knows everything."""

    def serve(self, request: Request, now_ms: int) -> Response:
        """Leave the rest of the pages out."""
        response = super().serve(request, now_ms)
        return replace(response, vector=self.vector, more=False) if response.more else response


class LonelyHub(MemoryHub):
    """Never sends a version that others are built on when it is asked for."""

    def serve(self, request: Request, now_ms: int) -> Response:
        """Ignore what is wanted."""
        return super().serve(replace(request, wanted=()), now_ms)


def _covers_too_little(context: Context, dot: Dot) -> bool:
    return any(actor == dot[0] and last > dot[1] for actor, last in context)


def _never_forked(row: hub.ActorRow, request: Request) -> Verdict:
    follows = request.push is not None and request.push.upto > row.counter
    return Verdict.ACCEPT if follows else Verdict.KEEP


def _always_accept(row: hub.ActorRow, request: Request) -> Verdict:
    return Verdict.KEEP if request.push is None else Verdict.ACCEPT


def _no_bases(*_: object) -> set[Dot]:
    return set()


def _first_text(siblings: list[Version], bases: texts.Bases) -> str | None:
    written = [version for version in siblings if not version.is_tombstone]
    return texts.text_of(written[-1], bases) if written else None


def _unordered(self: device.Device, cell: bytes) -> list[Version]:
    return [row.version for row in self._store.cell(cell) if row.is_live]


def _keep_counts(self: records.Records, version: Version, actor: int) -> Version:
    return version


def _hasty_request(self: device.Device) -> None:
    """Confirm a batch when it is sent."""
    with self._transaction():
        self._state = replace(self._state, acked=self._state.counter)


def _never_gone_back(row: hub.ActorRow, request: Request) -> bool:
    return False


PATCHES = {
    "contexts cover one write too few": (hub, "covers", _covers_too_little),
    "writes know nothing": (device, "context_of", lambda versions: ()),
    "restored backups go unnoticed": (hub, "judge", _never_forked),
    "repeated pushes are stored again": (hub, "judge", _always_accept),
    "bases of differences are dropped": (device, "needed", _no_bases),
    "one text of several wins": (records, "merged", _first_text),
    "siblings in order of arrival": (device.Device, "siblings", _unordered),
    "counters move with what was confirmed": (records.Records, "moved", _keep_counts),
    "a push counts as stored when it is sent": (device.Device, "_open_batch", _hasty_request),
}
HUBS = {
    "tombstones go without a trace": ForgetfulHub,
    "a push is stored by half": HalfHub,
    "a page counts as everything": BoastfulHub,
    "bases are not sent": LonelyHub,
}
CONTROLS = (*PATCHES, *HUBS, "commits that wait in a cache")


@contextmanager
def broken(control: str) -> Iterator[type[MemoryHub]]:
    """Put the bug in while the block runs; yields the hub to use."""
    if control in PATCHES:
        with mock.patch.object(*PATCHES[control]):
            yield MemoryHub
    else:
        yield HUBS.get(control, MemoryHub)


def run_broken(control: str, seed: int) -> list[str]:
    """What the simulator says of one seed with the bug in."""
    with broken(control) as hub_class:
        world = World(seed, hub=hub_class, is_durable=control != CONTROLS[-1])
        try:
            return world.run()
        except SyncError as err:
            return [str(err)]
