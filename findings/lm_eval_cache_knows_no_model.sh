#!/bin/sh
# lm_eval 0.4.13: the key of `use_cache` is made of the prompt and its generation settings; the model, its address and the rest
# of model_args are not in it. Guess: a cache of a model's answers is asked for that model's. Of two models that are compared with
# one path the second is asked nothing: the first one's answers are its result, and its score, without a word. So it is for
# the same model under another seed. Ours reuses an answer of the same model under the same parameters alone
# (flows/execution/earlier_runs.py: take_over). Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile "lm_eval[api]==0.4.13" "datasets==5.2.0"
cd "$place"
export HF_HUB_OFFLINE=1 HF_HOME="$place/hf"
"$place/venv/bin/python" - >"$place/log" 2>&1 <<'PY' || { tail -5 "$place/log"; exit 1; }
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

asked = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        asked.append(model)
        message = {"role": "assistant", "content": "right" if model == "good" else "wrong"}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"id": "x", "object": "chat.completion", "model": model, "choices": choices}).encode())

    def log_message(self, *args): ...


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
Path("rows.jsonl").write_text("\n".join(json.dumps({"question": f"question {n}", "answer": "right"}) for n in range(5)))
Path("tasks").mkdir()
Path("tasks/mine.yaml").write_text(f"""
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {Path.cwd()}/rows.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
""")
tasks = TaskManager(include_path="tasks", include_defaults=False)


def score(model, cache, **args):
    before = len(asked)
    args = {"model": model, "base_url": url, **args}
    settings = {"tasks": ["mine"], "task_manager": tasks, "apply_chat_template": True, "bootstrap_iters": 0}
    found = lm_eval.simple_evaluate(model="local-chat-completions", model_args=args, use_cache=cache, **settings)
    return float(found["results"]["mine"]["exact_match,none"]), len(asked) - before


assert score("good", None) == (1.0, 5) and score("bad", None) == (0.0, 5)
found = {"good": score("good", "answers"), "bad": score("bad", "answers"), "bad, seed 7": score("bad", "answers", seed=7)}
assert found == {"good": (1.0, 5), "bad": (1.0, 0), "bad, seed 7": (1.0, 0)}, found
print("as found, (score, requests) with one cache:", found)
PY
grep "as found" "$place/log"
