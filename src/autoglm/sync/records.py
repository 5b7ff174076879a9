"""Records with typed fields over a Device: registers, sets, counters and texts.

What two devices wrote without knowing of each other is merged when it is read: the later register
by clock, all elements of both sets (adding wins over removing), the sum of all counts, and texts
merged by words. A field that was written while another device erased the record stays.
"""

from __future__ import annotations

import random
from dataclasses import replace

from autoglm.errors import InvalidRequestError, SyncError
from autoglm.protocol.v1.entry_pb2 import (
    KIND_COUNTER,
    KIND_REGISTER,
    KIND_SET,
    KIND_TEXT,
    Entry,
    Kind,
    Scalar,
    Share,
)
from autoglm.sync.cells import cell_of
from autoglm.sync.clock import HybridClock
from autoglm.sync.device import Device, Received
from autoglm.sync.messages import Request, Response
from autoglm.sync.store import Store
from autoglm.sync.texts import MAX_DEPTH, base_text, edit_of, inlined, make_edit, merged
from autoglm.sync.version import Version

MAX_NAME_BYTES = 256
MAX_VALUE_BYTES = 2**20
MAX_COUNT = 2**62

Value = str | int | float | bool | bytes | None
# A register, the elements of a set, a count, or a text.
FieldValue = Value | frozenset[str]


class Records:
    """A device's records. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        store: Store,
        index_key: bytes,
        *,
        clock: HybridClock,
        rng: random.Random,
    ) -> None:
        """`index_key` hides the names of cells from the hub; all devices of a user share it."""
        self._index_key = index_key
        self._cells: dict[str, set[bytes]] | None = None
        self.device = Device(store, self, clock=clock, rng=rng)

    def names(self) -> list[str]:
        """The records that have a field, sorted."""
        return sorted(name for name in self._index() if self.get(name))

    def get(self, record: str) -> dict[str, FieldValue]:
        """The fields of a record; empty when there is none."""
        fields: dict[str, FieldValue] = {}
        elements: dict[str, set[str]] = {}
        for cell in self._index().get(record, ()):
            siblings = self.device.siblings(cell)
            written = [version for version in siblings if not version.is_tombstone]
            if not written:
                continue
            entry = Entry.FromString(written[-1].payload)
            if entry.kind == KIND_SET:
                elements.setdefault(entry.field, set()).add(entry.member.decode())
            elif entry.kind == KIND_COUNTER:
                count = fields.get(entry.field, 0)
                fields[entry.field] = entry.share.total + (count if isinstance(count, int) else 0)
            elif entry.kind == KIND_TEXT:
                fields[entry.field] = merged(siblings, self.device.bases(cell))
            else:
                fields[entry.field] = _value(entry.scalar)
        return fields | {field: frozenset(members) for field, members in elements.items()}

    def put(self, record: str, field: str, value: Value) -> None:
        """Write a register. Raises InvalidRequestError, StorageError."""
        entry = Entry(record=record, field=field, kind=KIND_REGISTER, scalar=_scalar(value))
        self._write(entry)

    def add(self, record: str, field: str, element: str) -> None:
        """Put an element into a set."""
        self._write(Entry(record=record, field=field, kind=KIND_SET, member=element.encode()))

    def remove(self, record: str, field: str, element: str) -> None:
        """Take an element out of a set; one that is added meanwhile elsewhere stays."""
        self.device.erase([self._cell(record, field, KIND_SET, element.encode())])

    def increment(self, record: str, field: str, by: int = 1) -> None:
        """Add to a counter."""
        state = self.device.state
        member = _lane(state.actor)
        cell = self._cell(record, field, KIND_COUNTER, member)
        total = confirmed = 0
        for version in self.device.siblings(cell):
            if not version.is_tombstone:
                share = Entry.FromString(version.payload).share
                is_confirmed = version.dot[0] != state.actor or version.dot[1] <= state.acked
                total = share.total
                confirmed = share.total if is_confirmed else share.confirmed
        if abs(total + by) > MAX_COUNT:
            message = f"a counter reaches {MAX_COUNT}; use another field"
            raise InvalidRequestError(message)
        share = Share(total=total + by, confirmed=confirmed)
        self._write(
            Entry(record=record, field=field, kind=KIND_COUNTER, member=member, share=share)
        )

    def write_text(self, record: str, field: str, text: str) -> None:
        """Replace a text; what stays of it merges with what others write.

        Raises SyncError while a part of the text has not arrived, which the next round brings.
        """
        cell = self._cell(record, field, KIND_TEXT)
        siblings = self.device.siblings(cell)
        bases = self.device.bases(cell)
        entry = Entry(record=record, field=field, kind=KIND_TEXT)
        only = siblings[0] if len(siblings) == 1 and not siblings[0].is_tombstone else None
        if any(not v.is_tombstone and base_text(v, bases) is None for v in siblings):
            message = f"a part of the text of field '{field}' is still to come; sync and try again"
            raise SyncError(message)
        if only is not None and not self.device.is_sent(only):
            # The unsent version is replaced by one with the same base.
            needs = only.needs
            before = base_text(only, bases) or ""
            depth = edit_of(only).depth
        elif only is not None and edit_of(only).depth < MAX_DEPTH:
            needs = only.dot
            before = merged(siblings, bases) or ""
            depth = edit_of(only).depth + 1
        else:
            needs, before, depth = None, merged(siblings, bases) or "", 0
        entry.edit.CopyFrom(make_edit(before, text))
        entry.edit.depth = depth
        if needs is None:
            entry.edit.base = before
        self._write(entry, needs=needs)

    def erase(self, record: str) -> None:
        """Remove a record; fields that others write meanwhile stay."""
        self.device.erase(sorted(self._index().get(record, ())))

    def request(self) -> Request:
        """The device's half of the next round."""
        return self.device.request()

    def receive(self, response: Response) -> Received:
        """Take in the hub's half."""
        received = self.device.receive(response)
        if received.cells:
            self._cells = None
        return received

    def inlined(self, version: Version) -> Version:
        """The same version with its base in the payload."""
        return inlined(version, self.device.bases(version.cell))

    def moved(self, version: Version, actor: int) -> Version:
        """The same write by another number: what was not confirmed is counted in its lane."""
        if version.is_tombstone:
            return version
        entry = Entry.FromString(version.payload)
        if entry.kind != KIND_COUNTER:
            return version
        # The cell is another one, so the index is no longer right.
        self._cells = None
        entry.member = _lane(actor)
        entry.share.total -= entry.share.confirmed
        entry.share.confirmed = 0
        cell = cell_of(self._index_key, entry)
        return replace(version, cell=cell, context=(), payload=entry.SerializeToString())

    def _write(self, entry: Entry, *, needs: tuple[int, int] | None = None) -> None:
        for name in (entry.record, entry.field, entry.member):
            if len(name) > MAX_NAME_BYTES:
                message = f"a name of {len(name)} characters; at most {MAX_NAME_BYTES} are allowed"
                raise InvalidRequestError(message)
        payload = entry.SerializeToString()
        if len(payload) > MAX_VALUE_BYTES:
            message = f"a value of {len(payload)} bytes; at most {MAX_VALUE_BYTES}, or use a blob"
            raise InvalidRequestError(message)
        cell = cell_of(self._index_key, entry)
        self.device.write(cell, payload, needs=needs)
        if self._cells is not None:
            self._cells.setdefault(entry.record, set()).add(cell)

    def _cell(self, record: str, field: str, kind: Kind, member: bytes = b"") -> bytes:
        entry = Entry(record=record, field=field, kind=kind, member=member)
        return cell_of(self._index_key, entry)

    def _index(self) -> dict[str, set[bytes]]:
        """The cells of each record, read from the store when it has changed from outside."""
        if self._cells is None:
            self._cells = {}
            for cell in self.device.cells():
                for version in self.device.siblings(cell):
                    if not version.is_tombstone:
                        record = Entry.FromString(version.payload).record
                        self._cells.setdefault(record, set()).add(cell)
        return self._cells


def _lane(actor: int) -> bytes:
    """The member of a counter that only one device writes."""
    return str(actor).encode()


def _scalar(value: Value) -> Scalar:
    match value:
        case bool():
            return Scalar(flag=value)
        case int() if -(2**63) <= value < 2**63:
            return Scalar(integer=value)
        case float():
            return Scalar(number=value)
        case str():
            return Scalar(text=value)
        case bytes():
            return Scalar(data=value)
        case None:
            return Scalar()
        case _:
            message = f"a value of type {type(value).__name__}; expected a string, number or bytes"
            raise InvalidRequestError(message)


def _value(scalar: Scalar) -> Value:
    match scalar.WhichOneof("value"):
        case "text":
            return scalar.text
        case "integer":
            return scalar.integer
        case "number":
            return scalar.number
        case "flag":
            return scalar.flag
        case "data":
            return scalar.data
        case _:
            return None
