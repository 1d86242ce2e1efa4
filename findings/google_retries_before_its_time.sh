#!/bin/sh
# google-genai 3.6: `retry_options` knows neither Retry-After nor the retryDelay in Google's own 429. Told to come back in 8 s it
# asks after 1 s and 2 s more, has used up its three attempts, and raises. Guess: a client that retries waits as long as it was
# told, as openai's and anthropic's do, which get their answer at the second attempt. Under a quota a night's requests all fail
# that would have gone through, each asked three times. Ours reads both (engines/wires/waits.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "google-genai==3.6.1" "openai==3.3.0" "anthropic==2.14.0"
"$place/venv/bin/python" - <<'PY'
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import openai
from google import genai
from google.genai import errors, types

SECONDS = 8
asked = []
delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{SECONDS}s"}
REFUSED = {"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [delay]}}
TEXT = {"role": "assistant", "content": "hi"}
ANSWERS = {
    "/openai": {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": TEXT}]},
    "/anthropic": {"id": "x", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}},
    "/google": {"candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}}]},
}  # fmt: skip


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        asked.append(time.monotonic())
        early = asked[-1] - asked[0] < SECONDS - 0.5
        self.send_response(429 if early else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After", str(SECONDS))
        self.end_headers()
        answer = next(answer for path, answer in ANSWERS.items() if self.path.startswith(path))
        self.wfile.write(json.dumps(REFUSED if early else answer).encode())

    def log_message(self, *args): ...


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
messages = [{"role": "user", "content": "hi"}]
options = types.HttpOptions(base_url=f"{url}/google", retry_options=types.HttpRetryOptions(attempts=3))
clients = (
    openai.OpenAI(api_key="k", base_url=f"{url}/openai", max_retries=2),
    anthropic.Anthropic(api_key="k", base_url=f"{url}/anthropic", max_retries=2),
    genai.Client(api_key="k", http_options=options),
)
ways = {
    "openai": lambda: clients[0].chat.completions.create(model="m", messages=messages),
    "anthropic": lambda: clients[1].messages.create(model="m", messages=messages, max_tokens=5),
    "google-genai": lambda: clients[2].models.generate_content(model="m", contents="hi"),
}
found = {}
for name, ask in ways.items():
    asked.clear()
    try:
        ask()
        found[name] = ("answered", len(asked))
    except errors.ClientError as error:
        found[name] = (error.code, len(asked))
    print("as found:", name, found[name], "asked again after", *(f"{later - sooner:.1f} s" for sooner, later in zip(asked, asked[1:])))
assert found == {"openai": ("answered", 2), "anthropic": ("answered", 2), "google-genai": (429, 3)}, found
PY
