#!/bin/sh
# groq 1.7 and together 3.1: a Retry-After of more than 60 s is dropped as if none were there. Told to come back in 4 s they come
# in 4 s; told 90 s they come after half a second and a second more, have used up their three attempts, and raise. Guess: the
# longer the wait that is told, the later the next attempt, as openai 3.57 and anthropic 2.14, made by the same generator, do it
# (they wait the 90 s), or it raises at once, with the header. A limit of the day or the hour tells minutes: each of a night's
# requests is then asked thrice within two seconds, and is lost. Ours waits what it was told, or sends elsewhere
# (engines/core/rate_limits.py). Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile "groq==1.7.0" "together==3.1.1" "openai==3.57.0"
"$place/venv/bin/python" - <<'PY'
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import groq
import openai
import together

BODY = b'{"error": {"message": "limit of tokens per day", "type": "tokens", "code": "rate_limit_exceeded"}}'
told, asked = "", []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        asked.append(time.monotonic())
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(429)
        self.send_header("Retry-After", told)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *args): ...


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_port}/v1"


def asks(library, seconds, client):
    """How many times it asks within 12 s, and the seconds from the first to the last."""
    global told
    told = str(seconds)
    asked.clear()

    def call():
        try:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "q"}])
        except library.RateLimitError:
            pass

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(12)
    return len(asked), round(asked[-1] - asked[0], 1)


for library, client in ((groq, groq.Groq), (together, together.Together)):
    short, long = (asks(library, told, client(api_key="x", base_url=URL)) for told in (4, 90))
    print(library.__name__, library.__version__, "as found, (asked, seconds): told 4 s", short, "| told 90 s", long)
    assert short[0] == 3 and short[1] >= 7.9, short
    assert long[0] == 3 and long[1] < 6, long
patient = asks(openai, 90, openai.OpenAI(api_key="x", base_url=URL))
assert patient[0] == 1, patient
print("openai", openai.__version__, "as found: told 90 s it waits")
PY
