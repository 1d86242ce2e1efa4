#!/bin/sh
# opentelemetry-exporter-otlp-proto-http 1.45: a collector's address that redirects (308 from http to https, a path that has
# moved) is not followed any more, and the export says SUCCESS: spans are lost without a word, in the log neither. Guess: a
# status that is not 2xx is a failure, and is logged as a 404 is; up to 1.43 the redirect was followed (a 302 by a GET without
# the spans, and SUCCESS too). Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
for version in 1.43.0 1.45.2; do
    "$place/venv/bin/pip" install --quiet "opentelemetry-sdk==$version" "opentelemetry-exporter-otlp-proto-http==$version" requests
    "$place/venv/bin/python" - "$version" <<'PY'
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider

version = sys.argv[1]
came, logged = [], []
status = 308


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        came.append((self.command, self.path, len(body)))
        self.send_response(200 if self.path.startswith("/moved") else status)
        self.send_header("Location", f"/moved{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *args):
        pass


class Kept(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())


logging.getLogger().addHandler(Kept())
server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=server.serve_forever, daemon=True).start()
exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces")
with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
    pass


def export(with_status):
    global status
    status = with_status
    came.clear()
    logged.clear()
    said = exporter.export([span]).name
    return said, [(method, path) for method, path, _ in came], len(logged)


found = {each: export(each) for each in (302, 308, 404)}
sent, moved = ("POST", "/v1/traces"), "/moved/v1/traces"
if version == "1.45.2":
    assert found[302] == found[308] == ("SUCCESS", [sent], 0), found
else:
    assert found[302] == ("SUCCESS", [sent, ("GET", moved)], 0), found
    assert found[308] == ("SUCCESS", [sent, ("POST", moved)], 0), found
assert found[404][0] == "FAILURE" and found[404][2], found
print(version, "as found:", found)
PY
done
