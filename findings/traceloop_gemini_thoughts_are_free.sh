#!/bin/sh
# opentelemetry-instrumentation-google-generativeai 0.62 (OpenLLMetry): Gemini's thoughts are in no count of its spans and metrics
# but the total. Of 20 tokens of answer and 500 of thoughts the span says output_tokens 20, and so does
# gen_ai.client.token.usage, which dashboards price. Guess: output is what is billed as output: 520, as the same family says of
# OpenAI's reasoning, and as OpenInference says of this very reply. Input and output do not add up to its own total_tokens. A
# night of a thinking model looks as if it had cost a twentieth of its output. Ours counts thoughts as output
# (engines/wires/gemini.py: _usage). Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile "google-genai==3.6.1" "opentelemetry-sdk==1.45.2" \
    "opentelemetry-instrumentation-google-generativeai==0.62.4" "openinference-instrumentation-google-genai==1.4.14"
"$place/venv/bin/python" - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google import genai
from openinference.instrumentation.google_genai import GoogleGenAIInstrumentor
from opentelemetry.instrumentation.google_generativeai import GoogleGenerativeAiInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

USAGE = {"promptTokenCount": 1000, "candidatesTokenCount": 20, "thoughtsTokenCount": 500, "totalTokenCount": 1520}
ANSWER = {"content": {"role": "model", "parts": [{"text": "yes"}]}, "finishReason": "STOP", "index": 0}
REPLY = {"candidates": [ANSWER], "usageMetadata": USAGE, "modelVersion": "gemini-2.5-flash", "responseId": "x"}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(REPLY).encode())

    def log_message(self, *args): ...


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()


def traced(instrumentor):
    """(attributes of the one call's span, tokens by the metric's kind)."""
    spans, metrics = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor.instrument(tracer_provider=tracers, meter_provider=MeterProvider(metric_readers=[metrics]))
    client = genai.Client(api_key="x", http_options={"base_url": f"http://127.0.0.1:{server.server_port}"})
    client.models.generate_content(model="gemini-2.5-flash", contents="q")
    instrumentor.uninstrument()
    groups = metrics.get_metrics_data()
    found = [m for r in groups.resource_metrics for s in r.scope_metrics for m in s.metrics] if groups else []
    points = [p for m in found if m.name == "gen_ai.client.token.usage" for p in m.data.data_points]
    (span,) = spans.get_finished_spans()
    return span.attributes, {p.attributes["gen_ai.token.type"]: p.sum for p in points}


other, _ = traced(GoogleGenAIInstrumentor())
assert other["llm.token_count.completion"] == 520, dict(other)
span, metric = traced(GoogleGenerativeAiInstrumentor())
told = {name: span[f"gen_ai.usage.{name}_tokens"] for name in ("input", "output", "total")}
assert told == {"input": 1000, "output": 20, "total": 1520}, told
assert metric == {"input": 1000, "output": 20}, metric
assert not [name for name in span if "reasoning" in name or "thought" in name], dict(span)
print("as found: the span says", told, "the metric", metric, "| OpenInference: output", other["llm.token_count.completion"])
PY
