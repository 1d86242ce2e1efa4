#!/bin/sh
# litellm 1.110: its cache's key is made of parameters that it knows. What goes through `extra_body` (chat_template_kwargs,
# structured_outputs), what it does not know (repetition_penalty, min_p) and `api_base` are sent, but are not in the key: the
# second request gets the first one's answer, with thinking for without, or another server's. Guess: what differs on the wire
# differs in the key, as temperature does. `Cache(type="local")` keeps 200 answers: of 300 asked again in order all 300 are sent
# again. And a hit needs packages of the proxy (fastapi, orjson, soundfile): in plain litellm it raises ModuleNotFoundError.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
export LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_OFFLINE_MODE=true
cat >"$place/found.py" <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm

litellm.suppress_debug_info = True
bodies = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        message = {"role": "assistant", "content": f"answer {len(bodies)}"}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"id": "x", "object": "chat.completion", "created": 1, "choices": choices}).encode())

    def log_message(self, *args): ...


servers = [ThreadingHTTPServer(("127.0.0.1", 0), Server) for _ in range(2)]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
litellm.cache = litellm.Cache(type="local")


def ask(text, server=0, **params):
    base, asked = f"http://127.0.0.1:{servers[server].server_port}/v1", [{"role": "user", "content": text}]
    reply = litellm.completion("hosted_vllm/qwen", asked, api_base=base, api_key="k", caching=True, **params)
    return reply.choices[0].message.content


first = ask("one")
if sys.argv[1] == "alone":
    try:
        sys.exit(f"plain litellm has a hit: {ask('one')}")
    except ModuleNotFoundError as error:
        print("as found, a hit of plain litellm:", error)
        sys.exit()
quiet = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
cases = {"temperature": {"temperature": 0.5}, "extra_body": quiet, "min_p": {"min_p": 0.3}, "api_base": {"server": 1}}
found = {name: ask("one", **case) == first for name, case in cases.items()}
assert found == {"temperature": False, "extra_body": True, "min_p": True, "api_base": True}, found
ask("two", **quiet)
assert bodies[-1]["chat_template_kwargs"] == {"enable_thinking": False}, bodies[-1]  # where it is sent it is on the wire
print("as found, the first one's answer for another request:", found)
for _ in range(2):
    before = len(bodies)
    for number in range(300):
        ask(f"question {number}")
assert len(bodies) - before == 300, len(bodies) - before
print("as found: of 300 questions asked again", len(bodies) - before, "are sent again")
PY
"$place/venv/bin/pip" install --quiet "litellm==1.110.2"
"$place/venv/bin/python" "$place/found.py" alone
"$place/venv/bin/pip" install --quiet "fastapi==0.150.0" "orjson==3.13.0" "soundfile==0.14.0"
"$place/venv/bin/python" "$place/found.py" whole
