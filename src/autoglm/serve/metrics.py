"""What the service has done so far, as Prometheus text. Knows numbers and names, never a prompt."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MAX_RECENT = 256
NAMESPACE = "autoglm"


class Histogram:
    """Counts of values by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self.recent: deque[float] = deque(maxlen=MAX_RECENT)

    def add(self, value: float) -> None:
        """Count one value."""
        place = next((i for i, bound in enumerate(self._bounds) if value <= bound), -1)
        self._counts[place] += 1
        self._total += value
        self.recent.append(value)

    def lines(self, name: str) -> list[str]:
        """The samples in Prometheus' form."""
        lines, total = [], 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            total += count
            lines.append(f'{name}_bucket{{le="{bound:g}"}} {total}')
        total += self._counts[-1]
        return [
            *lines,
            f'{name}_bucket{{le="+Inf"}} {total}',
            f"{name}_sum {self._total:.6f}",
            f"{name}_count {total}",
        ]


class Metrics:
    """Counters and histograms of one service. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, str], float] = {}
        self.first_token = Histogram(LATENCY_BUCKETS_S)
        self.between_tokens = Histogram(LATENCY_BUCKETS_S)
        self.duration = Histogram(LATENCY_BUCKETS_S)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter. Labels must come from a small, fixed set of words."""
        text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        with self._lock:
            self._counters[name, text] = self._counters.get((name, text), 0) + amount

    def observe(self, histogram: Histogram, value: float) -> None:
        """Add to one of the histograms."""
        with self._lock:
            histogram.add(value)

    def value(self, name: str) -> float:
        """The sum of a counter over all labels."""
        with self._lock:
            return sum(value for (key, _), value in self._counters.items() if key == name)

    def text(self, gauges: Mapping[str, float]) -> str:
        """Everything, with the present values of `gauges`."""
        with self._lock:
            lines: list[str] = []
            for name in sorted({name for name, _ in self._counters}):
                lines.append(f"# TYPE {NAMESPACE}_{name} counter")
                for (key, labels), value in sorted(self._counters.items()):
                    if key == name:
                        shown = f"{{{labels}}}" if labels else ""
                        lines.append(f"{NAMESPACE}_{name}{shown} {value:g}")
            for name, value in sorted(gauges.items()):
                lines += [f"# TYPE {NAMESPACE}_{name} gauge", f"{NAMESPACE}_{name} {value:g}"]
            for name, histogram in (
                ("first_token_seconds", self.first_token),
                ("between_tokens_seconds", self.between_tokens),
                ("request_seconds", self.duration),
            ):
                lines.append(f"# TYPE {NAMESPACE}_{name} histogram")
                lines += histogram.lines(f"{NAMESPACE}_{name}")
        return "\n".join(lines) + "\n"
