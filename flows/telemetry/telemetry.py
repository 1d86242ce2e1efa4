"""What a run can tell of itself while it goes on, and the choice whether it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from thirdshift.router.interfaces import Journal
from thirdshift.router.values import Endpoint, Purpose

SIGNALS = ("traces", "metrics")
"""What can be exported, as the variables spell it: OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER."""
REMEDY = "pip install 'thirdshift[otel]'"


class Telemetry(Protocol):
    """A run's spans and metrics. Nothing here raises or waits for a collector, and no text of a prompt is told."""

    def journal(self, journal: Journal, earlier: Mapping[str, Collection[str]]) -> Journal:
        """Return a journal that counts what passes. `earlier`: shard to entries that a dead process has sent."""

    def station(self, name: str) -> AbstractContextManager[None]:
        """Span one stage of the run."""

    def shard(
        self, shard_id: str, endpoint: Endpoint, purpose: Purpose, requests: int
    ) -> AbstractContextManager[None]:
        """Span one shard, within the stage that sends it. `requests`: how many are not answered yet."""

    def ended(self, figures: Mapping[str, Any]) -> None:
        """Add how the run ended to its span."""

    def close(self, error: BaseException | None = None) -> None:
        """End the run's span and export what is left, within seconds."""


class NoTelemetry:
    """Telemetry of a run that nobody listens to."""

    def journal(self, journal: Journal, earlier: Mapping[str, Collection[str]]) -> Journal:  # noqa: ARG002
        return journal

    def station(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def shard(self, *_: object) -> AbstractContextManager[None]:
        return nullcontext()

    def ended(self, figures: Mapping[str, Any]) -> None:
        """Tell nobody."""

    def close(self, error: BaseException | None = None) -> None:
        """Close nothing."""


def wanted(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the signals that the variables ask for; none where they name no collector, or switch it off."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    return tuple(signal for signal in SIGNALS if _exporter(signal, environ) != "none")


def _exporter(signal: str, environ: Mapping[str, str]) -> str:
    name = signal.upper()
    stated = environ.get(f"OTEL_{name}_EXPORTER", "").strip().lower()
    places = (f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return stated or ("otlp" if any(environ.get(place) for place in places) else "none")


def telemetry_for(
    run_id: str,
    job: str,
    say: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> Telemetry:
    """Return the run's telemetry, by the variables. What keeps it from being exported is said, and the run goes on."""
    signals = wanted(environ)
    if not signals:
        return NoTelemetry()
    other = [s for s in signals if _exporter(s, environ) != "otlp"]
    if other:
        names = ", ".join(f"OTEL_{signal.upper()}_EXPORTER" for signal in other)
        say(f"OpenTelemetry: {names} can be otlp or none; nothing is exported")
        return NoTelemetry()
    try:
        from thirdshift.flows.telemetry.exporting import providers
        from thirdshift.flows.telemetry.signals import OpenTelemetry
    except ImportError as error:
        say(f"OpenTelemetry: OTEL_… names a collector and {error.name} is not installed: {REMEDY}")
        return NoTelemetry()
    try:
        return OpenTelemetry(run_id, job, providers(signals, environ, say))
    except ImportError as error:
        say(f"OpenTelemetry: the protocol asked for needs {error.name}, which is not installed")
    except ValueError as error:
        say(f"OpenTelemetry: a variable of OTEL_… is not understood ({error}); nothing is exported")
    return NoTelemetry()
