"""Where the time of a request goes, layer by layer: for the console, while a request runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoglm.telemetry.profile import NO_LAYER

if TYPE_CHECKING:
    from autoglm.engine.native import NativeModel
    from autoglm.telemetry.profile import StepEvent

ATTENTION = frozenset({"input_norm", "qkv", "rope_store", "attention", "output"})
BEFORE = frozenset({"embed", "angles"})
# The first piece of an answer ends the reading; so many more show how it is written.
MOST_PIECES = 4


@dataclass(slots=True)
class LayerTime:
    """Milliseconds in one layer, or before ("embed") and after ("head") all of them."""

    name: str
    attention_ms: float = 0.0
    rest_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Of the passes that read a prompt, and of some that wrote."""

    read: tuple[LayerTime, ...] = ()
    write: tuple[LayerTime, ...] = ()


@dataclass(slots=True)
class LayerRecorder:
    """Records the passes of one model; what others compute in the same passes counts too."""

    model: NativeModel
    num_pieces: int = 0
    times: LayerTimes = field(default_factory=LayerTimes)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_running: bool = False

    def start(self) -> None:
        """Begin. Takes as long as a pass, as `take` and `stop` do."""
        self.model.start_profile()
        self._is_running = True

    def take(self) -> None:
        """A piece of the answer has come."""
        with self._lock:
            self.num_pieces += 1
            if not self._is_running:
                return
            if self.num_pieces == 1:
                self.times = LayerTimes(read=layer_times(self.model.stop_profile()))
                self.model.start_profile()
        if self.num_pieces == MOST_PIECES:
            self.stop()

    def stop(self) -> None:
        """End the recording; a second call does nothing."""
        with self._lock:
            if self._is_running:
                self._is_running = False
                events = self.model.stop_profile()
                self.times = LayerTimes(self.times.read, layer_times(events))


def layer_times(events: tuple[StepEvent, ...]) -> tuple[LayerTime, ...]:
    """In the order of a pass."""
    rows = {"embed": LayerTime("embed")}
    layers = {event.layer for event in events if event.layer != NO_LAYER}
    rows |= {str(layer): LayerTime(str(layer)) for layer in sorted(layers)}
    rows["head"] = LayerTime("head")
    for event in events:
        name = str(event.layer)
        if event.layer == NO_LAYER:
            name = "embed" if event.step in BEFORE else "head"
        if event.layer != NO_LAYER and event.step in ATTENTION:
            rows[name].attention_ms += 1e3 * event.seconds
        else:
            rows[name].rest_ms += 1e3 * event.seconds
    return tuple(rows.values()) if events else ()
