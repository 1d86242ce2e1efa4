#!/bin/sh
# langchain-core 1.8: get_usage_metadata_callback (and UsageMetadataCallbackHandler) counts an answer out of LangChain's own
# cache as if it had been asked: of three equal prompts one is sent, and 3,000 tokens are told for 1,000. Guess: what a run used
# is what was sent. In the message the hit is marked (`total_cost` 0), and the sum has that 0 beside the tokens, as if all of it
# were free, the one that was paid too. A night that is begun anew over a cache is reckoned at the price of a whole one.
# Ours books what came from a request, and what it reuses at nothing (flows/execution/earlier_runs.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile "langchain-core==1.8.3" "langchain-openai==1.7.4"
"$place/venv/bin/python" - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_openai import ChatOpenAI

asked = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
        usage = {"prompt_tokens": 990, "completion_tokens": 10, "total_tokens": 1000}
        reply = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *args): ...


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"


def counted(cache):
    """(requests sent, tokens told) of three equal prompts."""
    before = len(asked)
    model = ChatOpenAI(model="m", api_key="x", base_url=url, cache=cache)
    with get_usage_metadata_callback() as callback:
        for _ in range(3):
            model.invoke("the same question")
    told = callback.usage_metadata["m"]
    return len(asked) - before, told["total_tokens"], told.get("total_cost")


without, cached = counted(None), counted(InMemoryCache())
assert without[:2] == (3, 3000), without
assert cached == (1, 3000, 0), cached
print("as found, (requests sent, tokens told, cost told): without a cache", without, "| with one", cached)
PY
