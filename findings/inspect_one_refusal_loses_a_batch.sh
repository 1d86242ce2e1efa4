#!/bin/sh
# inspect_ai 0.3.285 with `batch`: one request that OpenAI refuses (status 400 in the batch's error file), or one that was not
# run when the batch expired ("batch_expired"), makes an error of every request of the batch: the answers are billed, are
# downloaded, and are thrown away. Guess: the one is an error, and the others have their answers. A line without `error` is
# taken for a completion (a refusal has a status and a body), and an error's code for a number. With `retry_on_error` all are
# sent, and billed, once more. Ours makes a value of each line (engines/wires/lines.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile "inspect_ai==0.3.285" "openai==3.57.0"
cd "$place"
"$place/venv/bin/python" - >"$place/log" 2>&1 <<'PY' || { tail -5 "$place/log"; exit 1; }
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.model import BatchConfig, get_model
from inspect_ai.solver import generate

FILE = {"object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch", "status": "processed"}
BATCH = {"object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": "input", "completion_window": "24h", "created_at": 1}
CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
ANSWER = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}
BAD = {"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}}
LATE = {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}
NOT_ANSWERED = {
    "completed": {"response": {"status_code": 400, "request_id": "q", "body": BAD}, "error": None},
    "expired": {"response": None, "error": LATE},
}
files, answered = {}, []


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/files":
            lines = [json.loads(line) for line in sent.split(b"\n") if line.startswith(b'{"custom_id"')]
            bad = [line for line in lines if line["body"]["messages"][-1]["content"] == "question 7"]
            good = [line for line in lines if line not in bad]
            answered.append(len(good))
            done = {"response": {"status_code": 200, "request_id": "q", "body": ANSWER}, "error": None}
            for name, of, how in (("output", good, done), ("errors", bad, NOT_ANSWERED[status])):
                files[name] = "\n".join(json.dumps({"id": "r", "custom_id": line["custom_id"], **how}) for line in of)
            return self.reply({"id": "input", **FILE})
        self.do_GET()

    def do_GET(self):
        name = self.path.split("/")[3] if self.path.startswith("/v1/files/") else None
        self.reply(files[name] if name else {**BATCH, "id": "b", "status": status, "output_file_id": "output", "error_file_id": "errors"})

    def reply(self, content):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write((content if isinstance(content, str) else json.dumps(content)).encode())

    def log_message(self, *args): ...


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
model = get_model("openai/m", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="k", responses_api=False)
task = Task(dataset=[Sample(input=f"question {number}") for number in range(10)], solver=generate())
for status in NOT_ANSWERED:
    answered.clear()
    (log,) = evaluate(task, model=model, batch=BatchConfig(size=10, tick=0.2), display="none", fail_on_error=False, score=False, log_dir="logs")
    errors = [sample.error.message.splitlines()[0] for sample in log.samples if sample.error]
    assert (answered, len(log.samples), len(errors), len(set(errors))) == ([9], 10, 10, 1), (answered, errors)
    print("as found:", status, "- answered and billed: 9 of 10; errors: 10 of 10:", errors[0])
PY
grep "as found" "$place/log"
