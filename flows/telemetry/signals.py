"""A run's spans and metrics, by the names of OpenTelemetry's conventions for generative AI where there is one.

What a request is, sends or says is not told: names of endpoints and models, counts, seconds and dollars are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from thirdshift.flows.telemetry.exporting import Providers
from thirdshift.router.interfaces import Journal
from thirdshift.router.values import (
    Endpoint,
    Failure,
    FailureKind,
    Intent,
    Mode,
    Outcome,
    Purpose,
)

SCOPE = "thirdshift"
TOKEN_BOUNDS = [4.0**power for power in range(14)]
SECOND_BOUNDS = [0.01 * 2.0**power for power in range(14)]
"""Bounds of the histograms of tokens and of seconds, as OpenTelemetry's conventions for generative AI advise."""
PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""What the conventions call a provider where it is not what litellm calls it."""
Attributes = dict[str, Any]


@dataclass(slots=True)
class _Shard:
    """A shard under way."""

    labels: Attributes
    left: int
    tokens: Counter[str] = field(default_factory=Counter)


class OpenTelemetry:
    """The `Telemetry` of a run that a collector is named for."""

    def __init__(self, run_id: str, job: str, providers: Providers) -> None:
        self._providers = providers
        self._tracer = providers.tracers.get_tracer(SCOPE)
        named = {"thirdshift.run_id": run_id, "thirdshift.job": job}
        self._run = self._tracer.start_span(f"run {job}", attributes=named)
        self._within = trace.set_span_in_context(self._run)
        self._stage: Context = self._within
        self.figures = _Figures(providers)
        self._closed = False

    def journal(self, journal: Journal, earlier: Mapping[str, Collection[str]]) -> Journal:
        return ObservedJournal(journal, self.figures, earlier)

    @contextmanager
    def station(self, name: str) -> Iterator[None]:
        with self._span(name, self._within) as span:
            before, self._stage = self._stage, trace.set_span_in_context(span)
            try:
                yield
            finally:
                self._stage = before

    @contextmanager
    def shard(self, shard_id: str, endpoint: Endpoint, purpose: Purpose, requests: int) -> Iterator[None]:
        labels = labels_of(endpoint.name, endpoint.model, endpoint.provider, endpoint.mode, purpose)
        more = {"thirdshift.shard_id": shard_id, "thirdshift.requests": requests}
        name = f"chat {endpoint.model}"
        with self._span(name, self._stage, kind=SpanKind.CLIENT, attributes={**labels, **more}) as span:
            self.figures.began(shard_id, labels, requests)
            try:
                yield
            finally:
                for key, count in self.figures.finished(shard_id).items():
                    span.set_attribute(f"gen_ai.usage.{key}_tokens", count)

    def ended(self, figures: Mapping[str, Any]) -> None:
        for name, value in figures.items():
            if value is not None:
                self._run.set_attribute(
                    f"thirdshift.{name}", list(value) if isinstance(value, tuple) else value
                )

    def close(self, error: BaseException | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        if error is not None:
            _fail(self._run, error)
        self._run.end()
        self._providers.close()

    @contextmanager
    def _span(self, name: str, within: Context, **more: Any) -> Iterator[Span]:
        span = self._tracer.start_span(name, within, **more)
        try:
            yield span
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()


def _fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed by the error's kind; its message may hold anything."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))


def labels_of(endpoint: str, model: str, provider: str, mode: Mode, purpose: Purpose) -> Attributes:
    """Return what every span and figure of a shard says of where it was sent."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDERS.get(provider, provider),
        "gen_ai.request.model": model.partition("/")[2] or model,
        "thirdshift.endpoint": endpoint,
        "thirdshift.mode": mode.value,
        "thirdshift.purpose": purpose.value,
    }


class _Figures:
    """A run's instruments, and what must be known to count. Safe from any thread."""

    def __init__(self, providers: Providers) -> None:
        meter = providers.meters.get_meter(SCOPE)
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens as providers reported them",
            explicit_bucket_boundaries_advisory=TOKEN_BOUNDS,
        )  # fmt: skip
        self.seconds = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "An attempt, from its sending to its outcome",
            explicit_bucket_boundaries_advisory=SECOND_BOUNDS,
        )  # fmt: skip
        self.spend = meter.create_counter("thirdshift.spend", "{USD}", "The ledger's cost, by status")
        self.refused = meter.create_counter("thirdshift.rate_limited", "{response}", "Answers of status 429")
        self.queued = meter.create_up_down_counter(
            "thirdshift.requests.queued", "{request}", "Requests of shards under way without an outcome yet"
        )
        self.in_flight = meter.create_up_down_counter("thirdshift.requests.in_flight", "{request}", "Sent")
        self._lock = Lock()
        self._shards: dict[str, _Shard] = {}

    def began(self, shard_id: str, labels: Attributes, requests: int) -> None:
        with self._lock:
            self._shards[shard_id] = _Shard(labels, requests)
        self.queued.add(requests, labels)

    def finished(self, shard_id: str) -> Counter[str]:
        """Forget a shard; return the tokens that it took."""
        with self._lock:
            shard = self._shards.pop(shard_id, None)
        if shard is None:
            return Counter()
        if shard.left:
            self.queued.add(-shard.left, shard.labels)
        return shard.tokens

    def labels(self, shard_id: str) -> Attributes:
        shard = self._shards.get(shard_id)
        return {} if shard is None else shard.labels

    def settle(self, shard_id: str, intent: Intent | None, labels: Attributes, outcome: Outcome) -> None:
        if outcome.cost_usd:
            self.spend.add(float(outcome.cost_usd), {**labels, "thirdshift.status": outcome.status.value})
        kind = outcome.reply.kind if isinstance(outcome.reply, Failure) else None
        if kind is FailureKind.RATE_LIMITED:
            self.refused.add(1, {**labels, "http.response.status_code": 429})
        usage = outcome.usage
        if usage is not None:
            reported = {"gen_ai.response.model": outcome.model_reported} if outcome.model_reported else {}
            answered = {**labels, **reported}
            self.tokens.record(usage.input_tokens, {**answered, "gen_ai.token.type": "input"})
            self.tokens.record(usage.output_tokens, {**answered, "gen_ai.token.type": "output"})
        if intent is not None and intent.row is not None:
            failed = {"error.type": kind.value} if kind is not None else {}
            took = (outcome.settled_at - intent.started_at).total_seconds()
            self.seconds.record(max(took, 0.0), {**labels, **failed})
        with self._lock:
            shard = self._shards.get(shard_id)
            done = shard is not None and outcome.final and shard.left > 0
            if shard is not None:
                shard.left -= done
                if usage is not None:
                    shard.tokens.update(input=usage.input_tokens, output=usage.output_tokens)
        if done:
            self.queued.add(-1, labels)


class ObservedJournal:
    """A journal that counts what passes. What is written, and when, is the journal's own."""

    def __init__(self, journal: Journal, figures: _Figures, earlier: Mapping[str, Collection[str]]) -> None:
        self._journal, self._figures = journal, figures
        self._intents: dict[str, Intent] = {}
        self._earlier = {entry: shard_id for shard_id, entries in earlier.items() for entry in entries}

    def sent(self, intents: Iterable[Intent]) -> None:
        written = list(intents)
        self._journal.sent(written)
        for intent in written:
            self._intents[intent.entry_id] = intent
            if intent.row is not None:
                self._figures.in_flight.add(1, _labels(intent))

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        written = list(outcomes)
        self._journal.settled(written)
        for outcome in written:
            intent = self._intents.pop(outcome.entry_id, None)
            if intent is None:
                shard_id = self._earlier.get(outcome.entry_id, "")
                labels = self._figures.labels(shard_id)
            else:
                shard_id, labels = intent.shard_id or "", _labels(intent)
                if intent.row is not None:
                    self._figures.in_flight.add(-1, labels)
            self._figures.settle(shard_id, intent, labels, outcome)


def _labels(intent: Intent) -> Attributes:
    return labels_of(intent.endpoint, intent.model, intent.provider, intent.mode, intent.purpose)
