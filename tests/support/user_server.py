"""A server of the user's for tests: a small real one that speaks OpenAI's wire, with `up`, `health` and `down`."""

from __future__ import annotations

import shlex
import socket
import sys
from decimal import Decimal
from pathlib import Path

from tests.support.engines import MemoryJournal
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.registry import engine_for
from thirdshift.engines.server.engine import ServerEngine
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Answer, Endpoint, Failure, Price, PriceSchedule, ServerSpec

USD_PER_HOUR = Decimal(36)
SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say({})
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "fine"}
        self.say({"choices": [{"message": message, "finish_reason": "stop"}],
                  "usage": {"prompt_tokens": 5, "completion_tokens": 1}})
    def say(self, what):
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

print("loading the weights", flush=True)
time.sleep(float(sys.argv[2]))
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server_endpoint(folder: Path, up: str | None = None, seconds: float = 0.5) -> Endpoint:
    """A server that takes `seconds` to load; its `down` writes a line to the file `downs` in `folder`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (folder / "server.py").write_text(SERVER)
    spec = ServerSpec(
        up or f"exec {shlex.quote(sys.executable)} server.py {port} {seconds}",
        f"http://127.0.0.1:{port}/health",
        "echo down >> downs",
        str(folder),
    )
    price = PriceSchedule(Price(Decimal(0), Decimal(0)), usd_per_hour=USD_PER_HOUR)
    return Endpoint("theirs", "openai/m", price, api_base=f"http://127.0.0.1:{port}/v1", server=spec)


def server_engine(
    endpoint: Endpoint, journal: MemoryJournal, budget: RunBudget, startup_seconds: float = 60.0
) -> ServerEngine:
    """The engine of a server of the user's; nothing is started yet."""
    engine = engine_for(endpoint, EngineContext(journal, budget))
    assert isinstance(engine, ServerEngine)
    engine._startup_seconds = startup_seconds
    return engine


def answered(engine: ServerEngine, shard: Shard) -> list[Answer | Failure]:
    """The replies to a shard, one for each of its requests."""
    replies = list(engine.collect(engine.submit(shard, shard.shard_id)))
    assert sorted(reply.row for reply in replies) == [request.row for request in shard.requests]
    return replies
