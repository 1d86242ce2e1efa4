"""Exporters to a collector, by the standard variables: where to, by which protocol, how often, under which name."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

LAST_SECONDS = 10.0
"""How long the end of a run waits for its last spans and figures to be exported."""


@dataclass(frozen=True, slots=True)
class Providers:
    """Where spans and metrics go; those of the process where it has set up OpenTelemetry itself."""

    tracers: trace.TracerProvider
    meters: metrics.MeterProvider
    owned: tuple[TracerProvider | MeterProvider, ...]
    """What a run has made for itself, and shuts down."""

    def close(self) -> None:
        """Export what is left; a collector that hangs is not waited for."""
        for provider in self.owned:
            ending = threading.Thread(target=provider.shutdown, name="otel", daemon=True)
            ending.start()
            ending.join(LAST_SECONDS)


class _SaysOnce(logging.Handler):
    """Says the first of what OpenTelemetry's exporters log, in a sentence; they say it again at every export."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger("opentelemetry").removeHandler(self)
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        self._say(f"OpenTelemetry: {record.getMessage()}; the run is none the worse")


def providers(signals: Collection[str], environ: Mapping[str, str], say: Callable[[str], None]) -> Providers:
    """Make what the variables ask for. Raises ImportError where a protocol's exporter is not installed."""
    set_up = _of_the_process(signals)
    if set_up is not None:
        return set_up
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(_SaysOnce(say))
    logger.propagate = False
    resource = _resource(environ)
    owned: list[TracerProvider | MeterProvider] = []
    tracers: trace.TracerProvider = trace.NoOpTracerProvider()
    meters: metrics.MeterProvider = metrics.NoOpMeterProvider()
    if "traces" in signals:
        tracers = tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracing.add_span_processor(BatchSpanProcessor(exporter_of("trace", "Span", environ)))
        owned.append(tracing)
    if "metrics" in signals:
        reader = PeriodicExportingMetricReader(exporter_of("metric", "Metric", environ))
        meters = metering = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        owned.append(metering)
    return Providers(tracers, meters, tuple(owned))


def _of_the_process(signals: Collection[str]) -> Providers | None:
    """Return what the process has set up itself, as `opentelemetry-instrument` does."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    if not isinstance(tracers, TracerProvider) and not isinstance(meters, MeterProvider):
        return None
    return Providers(
        tracers if "traces" in signals else trace.NoOpTracerProvider(),
        meters if "metrics" in signals else metrics.NoOpMeterProvider(),
        (),
    )


def _resource(environ: Mapping[str, str]) -> Resource:
    """Return who speaks: `thirdshift`, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise."""
    stated = "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = bool(environ.get("OTEL_SERVICE_NAME")) or stated
    name = {} if named else {"service.name": "thirdshift"}
    return Resource.create({**name, "service.version": version("thirdshift")})


def exporter_of(signal: str, of: str, environ: Mapping[str, str]) -> Any:
    """Make the exporter of a signal (`trace`, `metric`), `of` as its class is named, for the protocol that is asked."""
    plural = "TRACES" if signal == "trace" else "METRICS"
    names = (f"OTEL_EXPORTER_OTLP_{plural}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    stated = next((environ[name] for name in names if environ.get(name)), "http/protobuf")
    way = "grpc" if stated.strip().lower() == "grpc" else "http"
    module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{way}.{signal}_exporter")
    return getattr(module, f"OTLP{of}Exporter")()
