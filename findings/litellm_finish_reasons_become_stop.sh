#!/bin/sh
# litellm 1.106: a finish reason that it does not know (DeepSeek's insufficient_system_resource, vLLM's abort), and `error`,
# comes out as `stop`, on OpenAI's own wire too. Guess: what a provider of OpenAI's wire says is passed through. A part of an
# answer then looks like a whole one; what was said stands in the choice's provider_specific_fields. Ours reads it there
# (engines/realtime/litellm.py: _with_own_reasons). Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "litellm==1.106.2"
LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_OFFLINE_MODE=true "$place/venv/bin/python" - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm

litellm.suppress_debug_info = True
reasons = ["error", "abort", "insufficient_system_resource", "length"]


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": "a part of"}}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
for model in ("openai/m", "mistral/m", "hosted_vllm/m", "deepseek/m"):
    said = {}
    for reason in reasons:
        reply = litellm.completion(
            model=model, api_base=f"http://127.0.0.1:{server.server_port}/v1", api_key="k", num_retries=0, max_retries=0,
            messages=[{"role": "user", "content": "hi"}],
        )
        choice = reply.choices[0]
        said[reason] = choice.finish_reason
        if reason != "length":
            assert choice.provider_specific_fields["native_finish_reason"] == reason
    assert said == {"error": "stop", "abort": "stop", "insufficient_system_resource": "stop", "length": "length"}, said
    print(model, "as found:", said)
PY
