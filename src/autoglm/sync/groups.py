"""Small versions of one author as one plaintext: they share a seal, and compress together.

Whatever the hub knows of a version is in the plaintext too, or follows from it as the cell does; so
a version that the hub changed or exchanged does not open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from google.protobuf.message import DecodeError

from autoglm.errors import SyncError
from autoglm.protocol.v1.entry_pb2 import Entry, Group
from autoglm.sync.cells import cell_of
from autoglm.sync.version import Version

# Below this many, a seal and a cell name for each take less.
MIN_MEMBERS = 8
MAX_MEMBERS = 256
MAX_MEMBER_BYTES = 512


def groups_of(versions: Sequence[Version], index_key: bytes) -> Iterator[list[int]]:
    """Positions of versions that may be sealed together."""
    small = [n for n, version in enumerate(versions) if _may_share(version, index_key)]
    for start in range(0, len(small), MAX_MEMBERS):
        members = small[start : start + MAX_MEMBERS]
        if len(members) >= MIN_MEMBERS:
            yield members


def _may_share(version: Version, index_key: bytes) -> bool:
    is_alone = version.is_tombstone or version.needs is not None
    if is_alone or len(version.payload) > MAX_MEMBER_BYTES:
        return False
    try:
        return cell_of(index_key, Entry.FromString(version.payload)) == version.cell
    except DecodeError:
        return False


def packed(versions: Sequence[Version]) -> bytes:
    """The plaintext of versions of one author, in the order of their counters."""
    counters, stamps, contexts = [], [], []
    counter = stamp = 0
    for version in versions:
        counters.append(version.dot[1] - counter - 1)
        stamps.append(version.stamp - stamp)
        contexts += [len(version.context), *(number for dot in version.context for number in dot)]
        counter, stamp = version.dot[1], version.stamp
    while contexts and not contexts[-1]:
        contexts.pop()
    entries = [Entry.FromString(version.payload) for version in versions]
    group = Group(counters=counters, stamps=stamps, contexts=contexts, entries=entries)
    return group.SerializeToString()


def unpacked(plain: bytes, actor: int, index_key: bytes) -> dict[int, Version]:
    """The versions by their counters. Raises SyncError."""
    group = Group.FromString(plain)
    found: dict[int, Version] = {}
    counter = stamp = position = 0
    columns = zip(group.counters, group.stamps, group.entries, strict=True)
    contexts = [*group.contexts, *[0] * len(group.entries)]
    for skipped, passed, entry in columns:
        counter, stamp = counter + skipped + 1, stamp + passed
        end = position + 1 + 2 * contexts[position]
        numbers = contexts[position + 1 : end]
        position = end
        found[counter] = Version(
            (actor, counter),
            cell_of(index_key, entry),
            tuple(zip(numbers[::2], numbers[1::2], strict=True)),
            stamp,
            entry.SerializeToString(),
        )
    return found


def member(version: Version, members: dict[int, Version]) -> Version:
    """The opened version. Raises SyncError unless the hub's version is the one that was sealed."""
    opened = members.get(version.dot[1])
    if opened is None or replace(opened, payload=version.payload, is_shared=True) != version:
        message = "a version is not the one that was sealed: it was changed on the way"
        raise SyncError(message)
    return opened
