"""Traces and metrics of the service through OpenTelemetry: paths, codes and times, never content.

Nothing is exported unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set, as OpenTelemetry defines it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import metrics, trace

SCOPE = "autoglm.cloud"
LOGGER = logging.getLogger(SCOPE)


@dataclass(slots=True)
class Call:
    """One call while it runs; `status` is set by who answers it."""

    status: int = 0


class Telemetry:
    """Measures calls. For any number of them at once."""

    def __init__(self) -> None:
        meter = metrics.get_meter(SCOPE)
        self._tracer = trace.get_tracer(SCOPE)
        self._duration = meter.create_histogram("rpc.server.duration", unit="ms")
        self._active = meter.create_up_down_counter("rpc.server.active")

    @contextmanager
    def call(self, path: str) -> Iterator[Call]:
        """Measure the block as one call of a known path."""
        call = Call()
        start = time.perf_counter()
        self._active.add(1, {"path": path})
        with self._tracer.start_as_current_span(path, record_exception=False) as span:
            try:
                yield call
            finally:
                passed_ms = (time.perf_counter() - start) * 1e3
                labels: dict[str, str | int] = {"path": path, "status": call.status}
                span.set_attributes(labels)
                self._active.add(-1, {"path": path})
                self._duration.record(passed_ms, labels)
                LOGGER.info("%s %d %.1f ms", path, call.status, passed_ms)


def export_by_environment() -> bool:
    """Send traces and metrics to the collector the environment names; False if it names none."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return False
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    metrics.set_meter_provider(MeterProvider([reader]))
    return True
