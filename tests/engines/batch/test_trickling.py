"""A server that trickles bytes, or never ends, is bounded by a call's own time limit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from thirdshift.engines.batch import http
from thirdshift.engines.batch.http import BatchCalls, paced
from thirdshift.engines.batch.provider import CallError
from thirdshift.router.values import FailureKind
from thirdshift.world import REAL


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
    _Trickling.over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Trickling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        _Trickling.over.set()
        server.shutdown()


def given_up(base: str, ask: Callable[[BatchCalls], Awaitable[object]]) -> CallError:
    """How a call to `base` ended."""

    async def asked() -> None:
        calls = BatchCalls("slow", base, {}, None)
        try:
            await ask(calls)
        finally:
            await calls.close()

    with pytest.raises(CallError) as caught:
        asyncio.run(asked())
    return caught.value


def test_a_call_that_only_trickles_is_given_up(trickling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CALL_SECONDS", 0.5)
    error = given_up(trickling, lambda calls: calls.call("GET", "/batches/1"))
    assert (error.kind, error.passing) == (FailureKind.TIMEOUT, True)


def test_a_file_that_only_trickles_in_is_given_up(
    trickling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SILENCE_SECONDS", 0.3)
    fetch = BatchCalls.fetch.__wrapped__  # type: ignore[attr-defined]  # once, not eight times
    error = given_up(trickling, lambda calls: fetch(calls, "/files/1/content", tmp_path / "file"))
    assert (error.kind, error.passing) == (FailureKind.TIMEOUT, True)


def test_a_call_that_sends_a_file_has_as_long_as_the_least_pace_gives(
    trickling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(http, "LEAST_PACE", 1000)
    begun = time.monotonic()
    error = given_up(trickling, lambda calls: calls.call("GET", "/files", sends_bytes=500))
    assert (error.kind, error.passing) == (FailureKind.TIMEOUT, True)
    assert time.monotonic() - begun >= 0.7


def test_pieces_that_come_fast_enough_may_take_as_long_as_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(http, "LEAST_PACE", 0)

    async def all_of_them() -> list[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(5):
                yield bytes([number])

        return [piece async for piece in paced(pieces(), REAL)]

    assert len(asyncio.run(all_of_them())) == 5
