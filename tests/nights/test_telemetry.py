"""A night's spans and metrics, read by a collector on loopback: OTLP over HTTP, decoded by OpenTelemetry's own protobuf."""

from __future__ import annotations

import gzip
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from tests.support.nights import PROGRAM, answer, ask, night_here, unwatched, write_job, write_sums
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import cheap, dear, emulated
from thirdshift.engines.emulator import Trouble, ability_for
from thirdshift.flows.telemetry.signals import PROVIDERS, labels_of
from thirdshift.flows.telemetry.telemetry import NoTelemetry, telemetry_for, wanted
from thirdshift.router.values import Mode, Purpose

STATIONS = ["prepare", "pilot", "plan", "approve", "serve", "audit and repair", "finish"]
STATION_OF = {"pilot": "pilot", "main": "serve"}


class Collector:
    """What came in: spans, and of each metric the points of the last export."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.raw = b""
        self.services: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.take(
                    self.path, gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
                )
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.handler = Handler

    def take(self, path: str, body: bytes) -> None:
        self.raw += body
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.services.add(str(attributes(resource.resource)["service.name"]))
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        else:
            assert path == "/v1/metrics"
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scope.metrics}

    def sums(self, metric: str, *labels: str) -> dict[tuple[Any, ...], float]:
        """A metric's sums by the values of `labels`."""
        told = self.metrics[metric]
        points = told.histogram.data_points or told.sum.data_points
        sums: dict[tuple[Any, ...], float] = {}
        for point in points:
            key = tuple(attributes(point).get(label) for label in labels)
            value = point.sum if told.histogram.data_points else point.as_double or point.as_int
            sums[key] = sums.get(key, 0.0) + value
        return sums


def attributes(thing: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in thing.attributes}


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    with ThreadingHTTPServer(("127.0.0.1", 0), collector.handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collector, Path, dict[str, Any], int]:
    """A night that met 429s, as its collector has it; its warehouse, its summary, and how many 429s were sent."""
    folder = tmp_path_factory.mktemp("told")
    items = write_sums(folder / "requests.parquet", 60)
    models = [dear(), cheap(ability=ability_for(0.5), troubles={Trouble.ERROR_429_SILENT: 0.1})]
    with emulated(models, items=items, seed=3) as emulator, collecting() as (collector, url):
        job = write_job(
            folder,
            emulator,
            {
                "dear": {"price": {"input": 5, "output": 25}},
                "cheap": {"price": {"input": 0.1, "output": 0.4}},
            },
            quality={"floor": 0.8, "scorer": "exact", "pilot": 20},
        )
        done = subprocess.run(
            [PROGRAM, "run", job, "--run-id", "tonight", "--json"],
            env=unwatched() | {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": "nights-of-support"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        refused = sum(
            total["statuses"].get("429", total["statuses"].get(429, 0))
            for total in emulator.totals().values()
        )
    assert done.returncode in (0, 3), done.stderr
    assert refused
    return collector, folder / "warehouse.duckdb", answer(done), refused


def test_a_run_is_a_span_with_its_stations_in_their_order_within_and_its_figures(
    told: tuple[Collector, Path, dict[str, Any], int],
) -> None:
    collector, _, summary, _ = told
    (run,) = [span for span in collector.spans if not span.parent_span_id]
    assert run.name == "run sums"
    figures = attributes(run)
    assert figures["thirdshift.run_id"] == "tonight"
    assert figures["thirdshift.exit"] == summary["exit"]
    assert figures["thirdshift.spent_usd"] == pytest.approx(summary["spent_usd"])
    stations = [span for span in collector.spans if span.parent_span_id == run.span_id]
    assert [s.name for s in sorted(stations, key=lambda span: span.start_time_unix_nano)] == STATIONS
    assert collector.services == {"nights-of-support"}


def test_every_shard_is_a_span_within_its_station_with_model_and_tokens_by_the_conventions_names(
    told: tuple[Collector, Path, dict[str, Any], int],
) -> None:
    collector, warehouse, _, _ = told
    names = {span.span_id: span.name for span in collector.spans}
    shards = {
        attributes(span)["thirdshift.shard_id"]: span
        for span in collector.spans
        if "thirdshift.shard_id" in attributes(span)
    }
    known = ask(
        warehouse,
        "select shard_id, s.endpoint, s.purpose, sum(input_tokens), sum(output_tokens) from shards s "
        "join ledger using (shard_id) group by all",
    )
    assert {shard_id for shard_id, *_ in known} == shards.keys()
    for shard_id, endpoint, purpose, input_tokens, output_tokens in known:
        told_of = attributes(shards[shard_id])
        assert told_of[gen_ai.GEN_AI_OPERATION_NAME] == "chat"
        assert told_of[gen_ai.GEN_AI_REQUEST_MODEL] == endpoint
        assert told_of[gen_ai.GEN_AI_USAGE_INPUT_TOKENS] == input_tokens
        assert told_of[gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS] == output_tokens
        assert names[shards[shard_id].parent_span_id] == STATION_OF.get(purpose, "audit and repair")


def test_spend_tokens_and_429s_by_endpoint_are_the_ledgers_and_nothing_is_left_in_the_queue(
    told: tuple[Collector, Path, dict[str, Any], int],
) -> None:
    collector, warehouse, _, refused = told
    ledger = "from ledger where cost_usd > 0 group by all"
    spent = dict(ask(warehouse, f"select endpoint, sum(cost_usd)::double {ledger}"))
    assert collector.sums("thirdshift.spend", "thirdshift.endpoint") == {
        (endpoint,): pytest.approx(usd) for endpoint, usd in spent.items()
    }
    tokens = collector.sums(
        gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE, "thirdshift.endpoint", gen_ai.GEN_AI_TOKEN_TYPE
    )
    for endpoint, read, written in ask(
        warehouse, f"select endpoint, sum(input_tokens), sum(output_tokens) {ledger}"
    ):
        assert (tokens[endpoint, "input"], tokens[endpoint, "output"]) == (read, written)
    assert collector.sums("thirdshift.rate_limited", "thirdshift.endpoint") == {("cheap",): refused}
    assert set(collector.sums("thirdshift.requests.queued", "thirdshift.endpoint").values()) == {0}
    assert set(collector.sums("thirdshift.requests.in_flight", "thirdshift.endpoint").values()) == {0}
    attempts = Counter(dict(ask(warehouse, "select endpoint, count(*) from ledger group by all")))
    points = collector.metrics[gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION].histogram.data_points
    timed: Counter[str] = Counter()
    for point in points:
        timed[attributes(point)["thirdshift.endpoint"]] += point.count
    assert timed == attempts


def test_no_text_of_a_prompt_or_an_answer_is_in_what_is_exported(
    told: tuple[Collector, Path, dict[str, Any], int],
) -> None:
    collector, _, _, _ = told
    assert b"sums" in collector.raw
    assert b"plus" not in collector.raw  # every prompt has it


def test_a_collector_that_is_not_there_is_said_once_and_the_night_is_none_the_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    items = write_sums(tmp_path / "requests.parquet", 3)
    with emulated([cheap()], items=items) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": {"input": 0.1, "output": 0.4}}})
        night = night_here(job, "tonight")
    assert night.code == 0
    assert night.said.count("OpenTelemetry:") == 1, night.said


@pytest.mark.parametrize(
    ("environ", "signals"),
    [
        ({}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, ("traces", "metrics")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, ("metrics",)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c/v1/metrics"}, ("metrics",)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("traces",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "TRUE"}, ()),
    ],
)
def test_the_standard_variables_say_what_is_exported(
    environ: dict[str, str], signals: tuple[str, ...]
) -> None:
    assert wanted(environ) == signals


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER can be otlp or none"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "the protocol asked for needs",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(environ: dict[str, str], said: str) -> None:
    sentences: list[str] = []
    assert isinstance(telemetry_for("tonight", "sums", sentences.append, environ), NoTelemetry)
    (sentence,) = sentences
    assert said in sentence


def test_without_a_variable_a_night_imports_nothing_of_opentelemetrys_sdk() -> None:
    program = (
        "import sys; from thirdshift.flows.execution import opening; from thirdshift.flows.telemetry import telemetry; "
        "telemetry.telemetry_for('a', 'b', print, {}); "
        "sys.exit(any(m.startswith('opentelemetry.sdk') for m in sys.modules))"
    )
    assert (
        subprocess.run(
            [PROGRAM.with_name("python"), "-c", program], env=dict(os.environ), check=False
        ).returncode
        == 0
    )


def test_providers_are_named_as_the_conventions_name_them() -> None:
    known = {value.value for value in gen_ai.GenAiProviderNameValues} | {
        "moonshot_ai"
    }  # newer than the package
    assert set(PROVIDERS.values()) <= known
    assert not known & PROVIDERS.keys()

    def told_of(provider: str) -> str:
        labels = labels_of("mine", f"{provider}/some-model", provider, Mode.REALTIME, Purpose.MAIN)
        return str(labels[gen_ai.GEN_AI_PROVIDER_NAME])

    assert [told_of(name) for name in ("gemini", "openai", "xai", "127.0.0.1")] == [
        "gcp.gemini", "openai", "x_ai", "127.0.0.1",
    ]  # fmt: skip
