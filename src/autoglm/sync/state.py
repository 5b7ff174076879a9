"""What a device stores beside its versions: who it is, and how far it and the hub are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from autoglm.sync.version import Dot


@dataclass(frozen=True, slots=True)
class DeviceState:
    """`actor` 0 means that the hub has not given the device a number yet.

    Writes are counted by `counter`; the hub confirmed those up to `acked`, those up to `upto` were
    sent as `batch`. `vector` is what the device knows, `stamp` its clock. `wanted` are versions
    that known ones are built on. `epoch` and `generation` count how often everything was read
    anew; while that lasts, `resync_from` is what the hub had confirmed when it began.
    """

    actor: int = 0
    enrolment: int = 0
    counter: int = 0
    acked: int = 0
    upto: int = 0
    batch: int = 0
    stamp: int = 0
    epoch: int = 0
    generation: int = 0
    resync_from: int | None = None
    vector: dict[int, int] = field(default_factory=dict)
    wanted: tuple[Dot, ...] = ()

    def encode(self) -> bytes:
        """As bytes for the store."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes) -> DeviceState:
        """From the store's bytes; the empty string is a new device."""
        if not data:
            return DeviceState()
        fields = json.loads(data)
        fields["vector"] = {int(actor): counter for actor, counter in fields["vector"].items()}
        fields["wanted"] = tuple((actor, counter) for actor, counter in fields["wanted"])
        return DeviceState(**fields)
