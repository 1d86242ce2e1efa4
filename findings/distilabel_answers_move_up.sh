#!/bin/sh
# distilabel 1.5.3: with `use_offline_batch_generation` the answers of an OpenAI batch are sorted by custom_id, and then laid
# beside the prompts by their place. What failed is not among them (OpenAI puts it into the batch's error file, which is not
# read): behind one refused request every prompt gets the answer to the next one, and the last row is gone, without a word.
# Guess: custom_id says whose an answer is, and what failed is null. Ours goes by the id, and reads both files
# (engines/batch/openai.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile "distilabel==1.5.3" "openai==3.57.0" "datasets==5.2.0" "requests==2.34.2"
cd "$place"
"$place/venv/bin/python" - 2>"$place/log" <<'PY' || { tail -5 "$place/log"; exit 1; }
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from distilabel.models import OpenAILLM
from distilabel.steps.tasks import TextGeneration

files = {}
FILE = {"object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch", "status": "processed"}
BATCH = {"object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": "input", "completion_window": "24h", "created_at": 1}
DONE = {**BATCH, "id": "batch", "status": "completed", "output_file_id": "output", "error_file_id": "errors"}
REFUSED = {"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}}


def answer(line):
    text = line["body"]["messages"][-1]["content"]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"of {text}"}}
    whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    status, body = (400, REFUSED) if text == "C" else (200, whole)
    return {"id": "r", "custom_id": line["custom_id"], "response": {"status_code": status, "request_id": "q", "body": body}, "error": None}


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/files":
            lines = [answer(json.loads(line)) for line in sent.split(b"\n") if line.startswith(b'{"custom_id"')]
            for name, good in (("output", True), ("errors", False)):
                kept = [line for line in lines if (line["response"]["status_code"] == 200) == good]
                files[name] = "\n".join(json.dumps(line) for line in reversed(kept))  # OpenAI's are in no order
            return self.reply({"id": "input", **FILE})
        self.do_GET()

    def do_GET(self):
        name = self.path.split("/")[3] if self.path.startswith("/v1/files/") else None
        self.reply(files[name] if name else {**DONE, "request_counts": {"total": 6, "completed": 5, "failed": 1}})

    def reply(self, content):
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args): ...


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "k", "model": "m"}
batched = {"use_offline_batch_generation": True, "offline_batch_generation_block_until_done": 1}
task = TextGeneration(llm=OpenAILLM(**address, **batched))
task.load()
rows = next(task.process([{"instruction": letter} for letter in "ABCDEF"]))
found = {row["instruction"]: row["generation"] for row in rows}
assert json.loads(files["errors"])["custom_id"] == "2"
assert found == {"A": "of A", "B": "of B", "C": "of D", "D": "of E", "E": "of F"}, found
print("as found, C was refused:", found)
PY
