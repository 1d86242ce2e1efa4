"""A server that trickles bytes, or never ends, is bounded by a call's own time limit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from thirdshift.engines.batch import http
from thirdshift.engines.batch.http import BatchCalls
from thirdshift.engines.batch.provider import CallError
from thirdshift.router.values import FailureKind


class _Trickling(BaseHTTPRequestHandler):
    """Begins a reply and sends a byte of it now and then, without end."""

    over = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        try:
            while not self.over.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def trickling() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Trickling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        _Trickling.over.set()
        server.shutdown()


def test_a_call_that_only_trickles_is_given_up(trickling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CALL_SECONDS", 0.5)

    async def ask() -> None:
        calls = BatchCalls("slow", trickling, {}, None)
        try:
            await calls.call("GET", "/batches/1")
        finally:
            await calls.close()

    with pytest.raises(CallError) as caught:
        asyncio.run(ask())
    assert (caught.value.kind, caught.value.passing) == (FailureKind.TIMEOUT, True)
